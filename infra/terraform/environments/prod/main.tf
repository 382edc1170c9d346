# For users: a second zone for everything that holds state, and nothing that is deleted by accident.
provider "aws" {
  region = var.region
  default_tags { tags = { Project = "flywheel", Environment = "prod", Owner = var.owner, ManagedBy = "terraform" } }
}

module "platform" {
  source = "../../modules/platform"

  name    = "flywheel-prod"
  durable = true
  cidr    = "10.30.0.0/16"

  node_groups = {
    cpu       = { pool = "cpu", instance_types = ["m7i.xlarge"], min_size = 3, max_size = 12, disk_gib = 100 }
    gpu       = { pool = "gpu", gpu = true, instance_types = ["g6.2xlarge"], min_size = 0, max_size = 8, disk_gib = 200 }
    gpu-spot  = { pool = "gpu", gpu = true, spot = true, instance_types = ["g6.2xlarge", "g5.2xlarge"], min_size = 0, max_size = 4, disk_gib = 200 }
    multi-gpu = { pool = "multi-gpu", gpu = true, spot = true, instance_types = ["g6.12xlarge", "g5.12xlarge"], min_size = 0, max_size = 2, disk_gib = 400 }
  }
  database_class  = "db.m7g.large"
  cache_node_type = "cache.t4g.small"

  zones                    = var.zones
  admin_arns               = var.admin_arns
  api_cidrs                = var.api_cidrs
  alarm_emails             = var.alarm_emails
  monthly_budget           = var.monthly_budget
  permissions_boundary_arn = var.permissions_boundary_arn
}
