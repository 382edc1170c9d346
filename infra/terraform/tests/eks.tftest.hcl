mock_provider "aws" {
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_resource "aws_eks_cluster" {
    defaults = { identity = [{ oidc = [{ issuer = "https://oidc.eks.us-east-1.amazonaws.com/id/TEST" }] }] }
  }
  mock_resource "aws_iam_role" { defaults = { arn = "arn:aws:iam::111122223333:role/mock" } }
  mock_resource "aws_iam_openid_connect_provider" { defaults = { arn = "arn:aws:iam::111122223333:oidc-provider/mock" } }
  mock_resource "aws_launch_template" { defaults = { id = "lt-0123456789abcdef0", latest_version = 1 } }
}

variables {
  name               = "flywheel-test"
  kubernetes_version = "1.35"
  subnet_ids         = ["subnet-a", "subnet-b", "subnet-c"]
  api_cidrs          = []
  admin_arns         = ["arn:aws:iam::111122223333:role/admin"]
  kms_key_arn        = "arn:aws:kms:us-east-1:111122223333:key/test"
  node_groups = {
    cpu       = { pool = "cpu", instance_types = ["m7i.xlarge"], min_size = 2, max_size = 4, disk_gib = 100 }
    gpu       = { pool = "gpu", gpu = true, spot = true, instance_types = ["g6.2xlarge"], min_size = 0, max_size = 2, disk_gib = 200 }
    multi-gpu = { pool = "multi-gpu", gpu = true, instance_types = ["g6.12xlarge"], min_size = 0, max_size = 1, disk_gib = 400 }
  }
}

run "nodes" {
  command = apply
  module { source = "./modules/eks" }

  assert {
    condition = alltrue([for name in ["gpu", "multi-gpu"] :
      aws_eks_node_group.this[name].ami_type == "AL2023_x86_64_NVIDIA" && aws_eks_node_group.this[name].scaling_config[0].min_size == 0 &&
      [for taint in aws_eks_node_group.this[name].taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["nvidia.com/gpu=present:NO_SCHEDULE"]
    ])
    error_message = "GPU nodes rest at none, have NVIDIA's AMI and keep other pods away."
  }
  assert {
    condition     = length(aws_eks_node_group.this["cpu"].taint) == 0 && aws_eks_node_group.this["cpu"].ami_type == "AL2023_x86_64_STANDARD"
    error_message = "CPU nodes take every pod."
  }
  assert {
    condition     = { for name, group in aws_eks_node_group.this : name => group.labels["flywheel/pool"] } == { cpu = "cpu", gpu = "gpu", multi-gpu = "multi-gpu" }
    error_message = "config/pods.yaml selects nodes by the label flywheel/pool."
  }
  assert {
    condition     = { for name, group in aws_eks_node_group.this : name => group.capacity_type } == { cpu = "ON_DEMAND", gpu = "SPOT", multi-gpu = "ON_DEMAND" }
    error_message = "Spot only where it was asked for."
  }
  assert {
    condition = alltrue([for template in aws_launch_template.node :
    template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "IMDSv2 only, and out of the pods' reach."
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.node : tostring(template.block_device_mappings[0].ebs[0].encrypted) == "true"])
    error_message = "Disks are encrypted."
  }
}

run "control_plane" {
  command = apply
  module { source = "./modules/eks" }

  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "Without api_cidrs the API is private."
  }
  assert {
    condition     = length(aws_eks_cluster.this.enabled_cluster_log_types) == 5 && contains(aws_eks_cluster.this.encryption_config[0].resources, "secrets")
    error_message = "All logs are on, and Secrets are encrypted with our key."
  }
  assert {
    condition     = !aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions && tolist(keys(aws_eks_access_entry.admin)) == tolist(var.admin_arns)
    error_message = "Administrators are those who are named, and nobody else."
  }
  assert {
    condition = alltrue([for role in aws_iam_role.system :
    startswith(jsondecode(role.assume_role_policy).Statement[0].Condition.StringEquals["oidc.eks.us-east-1.amazonaws.com/id/TEST:sub"], "system:serviceaccount:kube-system:")])
    error_message = "A role trusts one service account, by its whole name."
  }
  assert {
    condition     = keys(aws_eks_addon.network) == ["kube-proxy", "vpc-cni"] && keys(aws_eks_addon.workload) == ["aws-ebs-csi-driver", "coredns", "metrics-server"]
    error_message = "Network add-ons come before the nodes, the others after them."
  }
}

run "the_whole_internet_is_refused" {
  command = plan
  module { source = "./modules/eks" }
  variables { api_cidrs = ["0.0.0.0/0"] }
  expect_failures = [var.api_cidrs]
}

run "idle_gpus_are_refused" {
  command = plan
  module { source = "./modules/eks" }
  variables {
    node_groups = {
      cpu = { pool = "cpu", instance_types = ["m7i.xlarge"], min_size = 2, max_size = 4, disk_gib = 100 }
      gpu = { pool = "gpu", gpu = true, instance_types = ["g6.2xlarge"], min_size = 1, max_size = 2, disk_gib = 200 }
    }
  }
  expect_failures = [var.node_groups]
}
