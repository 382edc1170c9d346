# A customer-managed key that rotates every year. IAM decides who in the account may use it; `services` may use it for what they store here.
data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  arn     = "arn:${data.aws_partition.current.partition}"
  account = data.aws_caller_identity.current.account_id
}

resource "aws_kms_key" "this" {
  description             = var.description
  enable_key_rotation     = true
  deletion_window_in_days = var.deletion_window_days
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([{
      Sid       = "AccountDecidesThroughIam"
      Effect    = "Allow"
      Principal = { AWS = "${local.arn}:iam::${local.account}:root" }
      Action    = "kms:*" # without it nobody could manage the key; IAM policies still have to grant each use
      Resource  = "*"     # in a key's policy: this key
      }],
      [for service in var.services : merge({
        Sid       = "For${replace(title(replace(service, ".", " ")), "/[^A-Za-z0-9]/", "")}"
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        }, startswith(service, "logs.") ? {
        Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "${local.arn}:logs:*:${local.account}:log-group:*" } }
        } : {})
    ])
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this.key_id
}
