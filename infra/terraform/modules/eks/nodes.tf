# Node groups, by the pools that config/pods.yaml selects. The cluster autoscaler moves their size; GPU groups rest at none.
data "aws_default_tags" "current" {}

resource "aws_launch_template" "node" {
  for_each               = var.node_groups
  name                   = "${var.name}-${each.key}"
  update_default_version = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required" # IMDSv2
    http_put_response_hop_limit = 1          # pods cannot borrow the node's role
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  dynamic "tag_specifications" { # the provider's default tags do not reach what the launch template starts
    for_each = ["instance", "volume", "network-interface"]
    content {
      resource_type = tag_specifications.value
      tags          = merge(data.aws_default_tags.current.tags, { Name = "${var.name}-${each.key}", "flywheel/pool" = each.value.pool })
    }
  }
}

resource "aws_eks_node_group" "this" {
  for_each        = var.node_groups
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = var.subnet_ids
  version         = var.kubernetes_version
  ami_type        = each.value.gpu ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD"
  capacity_type   = each.value.spot ? "SPOT" : "ON_DEMAND"
  instance_types  = each.value.instance_types
  labels          = { "flywheel/pool" = each.value.pool }

  dynamic "taint" {
    for_each = each.value.gpu ? ["present"] : []
    content {
      key    = "nvidia.com/gpu"
      value  = taint.value
      effect = "NO_SCHEDULE"
    }
  }

  scaling_config {
    min_size     = each.value.min_size
    desired_size = each.value.min_size
    max_size     = each.value.max_size
  }

  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }

  update_config { max_unavailable = 1 }
  node_repair_config { enabled = true } # a GPU that fell off the bus is replaced

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }
  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network]
}
