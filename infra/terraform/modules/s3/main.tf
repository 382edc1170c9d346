# The object store (FLYWHEEL_STORE=s3://<bucket>) and the bucket that keeps the log of every access to it.
resource "aws_s3_bucket" "store" {
  #checkov:skip=CKV_AWS_144:a second region doubles the bill; docs/aws.md says how to add replication where a region's loss must be survived
  #checkov:skip=CKV2_AWS_62:Airflow's sensor looks at the store itself; nobody would receive the events
  bucket        = var.bucket
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  # What was overwritten or deleted is really gone after this many days: `forget` relies on it.
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration { noncurrent_days = var.noncurrent_days }
    abort_incomplete_multipart_upload { days_after_initiation = 2 }
    expiration { expired_object_delete_marker = true }
  }

  dynamic "rule" {
    for_each = var.lifecycle_days
    content {
      id     = replace(trimsuffix(rule.key, "/"), "/", "-")
      status = "Enabled"
      filter { prefix = rule.key }
      dynamic "transition" {
        for_each = rule.value.infrequent_access == null ? [] : [rule.value.infrequent_access]
        content {
          days          = transition.value
          storage_class = "STANDARD_IA"
        }
      }
      dynamic "expiration" {
        for_each = rule.value.expire == null ? [] : [rule.value.expire]
        content { days = expiration.value }
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.store]
}

resource "aws_s3_bucket_logging" "store" {
  bucket        = aws_s3_bucket.store.id
  target_bucket = aws_s3_bucket.logs.id
  target_prefix = "store/"
  depends_on    = [aws_s3_bucket_policy.this]
}

resource "aws_s3_bucket" "logs" {
  #checkov:skip=CKV_AWS_18:this is where the access log goes; logging it into itself would never end
  #checkov:skip=CKV_AWS_145:S3 delivers access logs only to buckets encrypted with SSE-S3
  #checkov:skip=CKV_AWS_144:logs are not copied to a second region
  #checkov:skip=CKV2_AWS_62:nobody waits for a log file
  bucket        = "${var.bucket}-access-logs"
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_versioning" "logs" {
  bucket = aws_s3_bucket.logs.id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id
  rule {
    apply_server_side_encryption_by_default { sse_algorithm = "AES256" }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id
  rule {
    id     = "expire"
    status = "Enabled"
    filter {}
    expiration { days = var.access_log_days }
    noncurrent_version_expiration { noncurrent_days = 7 }
    abort_incomplete_multipart_upload { days_after_initiation = 2 }
  }
  depends_on = [aws_s3_bucket_versioning.logs]
}

# What both buckets have in common: nothing public, no ACLs, no plain HTTP.
locals {
  buckets = { store = aws_s3_bucket.store, logs = aws_s3_bucket.logs }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.buckets
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.buckets
  bucket   = each.value.id
  rule { object_ownership = "BucketOwnerEnforced" }
}

data "aws_caller_identity" "current" {}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.buckets
  bucket   = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([{
      Sid       = "OnlyTls"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "s3:*"
      Resource  = [each.value.arn, "${each.value.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
      }], each.key == "store" ? [] : [{
      Sid       = "AccessLog"
      Effect    = "Allow"
      Principal = { Service = "logging.s3.amazonaws.com" }
      Action    = "s3:PutObject"
      Resource  = "${each.value.arn}/store/*"
      Condition = {
        ArnLike      = { "aws:SourceArn" = aws_s3_bucket.store.arn }
        StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id }
      }
    }])
  })
  depends_on = [aws_s3_bucket_public_access_block.this]
}
