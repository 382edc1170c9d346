# One role a Kubernetes service account (IRSA), with only the prefixes of the store and the secrets that its pods need.
data "aws_region" "current" {}

locals {
  roles = { for account, grant in var.service_accounts : account => "${var.name}-${trimprefix(account, "flywheel-")}" }
  prefixes = { for account, grant in var.service_accounts : account => {
    seen    = distinct(concat(grant.read, grant.write))
    changed = concat(grant.write, grant.delete)
  } }
}

resource "aws_iam_role" "this" {
  for_each             = var.service_accounts
  name                 = local.roles[each.key]
  description          = "Service account ${each.value.namespace}/${each.key}"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.oidc_provider_arn }
      Condition = { StringEquals = {
        "${var.oidc_issuer}:aud" = "sts.amazonaws.com"
        "${var.oidc_issuer}:sub" = "system:serviceaccount:${each.value.namespace}:${each.key}"
      } }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  for_each = var.service_accounts
  name     = "least-privilege"
  role     = aws_iam_role.this[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for statement in [
      {
        Sid       = "List"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [var.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = flatten([for prefix in local.prefixes[each.key].seen : ["${prefix}*", trimsuffix(prefix, "/")]]) } }
      },
      {
        Sid      = "Read"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for prefix in local.prefixes[each.key].seen : "${var.bucket_arn}/${prefix}*"]
      },
      {
        Sid      = "Write"
        Effect   = "Allow"
        Action   = ["s3:PutObject", "s3:AbortMultipartUpload"]
        Resource = [for prefix in each.value.write : "${var.bucket_arn}/${prefix}*"]
      },
      {
        Sid      = "Delete"
        Effect   = "Allow"
        Action   = ["s3:DeleteObject"]
        Resource = [for prefix in each.value.delete : "${var.bucket_arn}/${prefix}*"]
      },
      {
        Sid      = "Secrets"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
        Resource = each.value.secrets
      },
      {
        Sid       = "Key"
        Effect    = "Allow"
        Action    = concat(["kms:Decrypt"], length(local.prefixes[each.key].changed) > 0 ? ["kms:GenerateDataKey"] : [])
        Resource  = [var.kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = [for service in ["s3", "secretsmanager"] : "${service}.${data.aws_region.current.name}.amazonaws.com"] } }
      },
    ] : statement if length(statement.Resource) > 0 && (statement.Sid != "List" || length(local.prefixes[each.key].seen) > 0)]
  })
}
