# A small environment that can be thrown away.
provider "aws" {
  region = var.region
  default_tags { tags = { Project = "flywheel", Environment = "dev", Owner = var.owner, ManagedBy = "terraform" } }
}

module "platform" {
  source = "../../modules/platform"

  name    = "flywheel-dev"
  durable = false
  cidr    = "10.20.0.0/16"

  node_groups = {
    cpu = { pool = "cpu", instance_types = ["m7i.xlarge"], min_size = 2, max_size = 4, disk_gib = 100 }
    gpu = { pool = "gpu", gpu = true, spot = true, instance_types = ["g6.2xlarge", "g5.2xlarge"], min_size = 0, max_size = 1, disk_gib = 200 }
  }
  database_class = "db.t4g.medium"

  zones                    = var.zones
  admin_arns               = var.admin_arns
  api_cidrs                = var.api_cidrs
  alarm_emails             = var.alarm_emails
  monthly_budget           = var.monthly_budget
  permissions_boundary_arn = var.permissions_boundary_arn
}
