# Buckets, images, database, cache, keys, alarms.
mock_provider "aws" {
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_region" { defaults = { name = "us-east-1" } }
  mock_data "aws_caller_identity" { defaults = { account_id = "111122223333" } }
  mock_data "aws_secretsmanager_random_password" { defaults = { random_password = "drawnByAwsForThisTest" } } # pragma: allowlist secret
  mock_resource "aws_s3_bucket" { defaults = { arn = "arn:aws:s3:::mock" } }
  mock_resource "aws_sns_topic" { defaults = { arn = "arn:aws:sns:us-east-1:111122223333:mock" } }
  mock_resource "aws_iam_role" { defaults = { arn = "arn:aws:iam::111122223333:role/mock" } }
  mock_resource "aws_db_instance" { defaults = { master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:mock" }] } } # pragma: allowlist secret
}

variables {
  name                     = "flywheel-test"
  vpc_id                   = "vpc-test"
  subnet_ids               = ["subnet-a", "subnet-b", "subnet-c"]
  client_security_group_id = "sg-cluster"
  kms_key_arn              = "arn:aws:kms:us-east-1:111122223333:key/test"
}

run "buckets" {
  command = apply
  module { source = "./modules/s3" }
  variables { bucket = "flywheel-test-store" }

  assert {
    condition = alltrue([for name in ["store", "logs"] : alltrue([
      aws_s3_bucket_public_access_block.this[name].block_public_acls, aws_s3_bucket_public_access_block.this[name].block_public_policy,
    aws_s3_bucket_public_access_block.this[name].ignore_public_acls, aws_s3_bucket_public_access_block.this[name].restrict_public_buckets])])
    error_message = "No bucket can be made public."
  }
  assert {
    condition = alltrue([for policy in aws_s3_bucket_policy.this : anytrue([for statement in jsondecode(policy.policy).Statement :
    statement.Effect == "Deny" && try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"])])
    error_message = "Plain HTTP is refused."
  }
  assert {
    condition = alltrue([for policy in aws_s3_bucket_policy.this : alltrue([for statement in jsondecode(policy.policy).Statement :
    statement.Effect == "Deny" || try(statement.Principal.Service, "") == "logging.s3.amazonaws.com"])])
    error_message = "A bucket's policy allows nobody but the access log anything."
  }
  assert {
    condition     = aws_s3_bucket_versioning.store.versioning_configuration[0].status == "Enabled" && !aws_s3_bucket.store.force_destroy
    error_message = "The store keeps versions, and does not go with a destroy."
  }
  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.store.rule).apply_server_side_encryption_by_default).kms_master_key_id == var.kms_key_arn
    error_message = "The store is encrypted with our key."
  }
  assert {
    condition     = toset([for rule in aws_s3_bucket_lifecycle_configuration.store.rule : rule.id]) == toset(["old-versions", "runs", "feedback", "mlflow", "cache-scores", "airflow-logs"])
    error_message = "Each prefix has its own rule, and old versions go."
  }
}

run "feedback_never_expires" {
  command = plan
  module { source = "./modules/s3" }
  variables {
    bucket         = "flywheel-test-store"
    lifecycle_days = { "feedback/" = { expire = 30 } }
  }
  expect_failures = [var.lifecycle_days]
}

run "images" {
  command = plan
  module { source = "./modules/ecr" }
  assert {
    condition = alltrue([for repository in aws_ecr_repository.this :
    repository.image_tag_mutability == "IMMUTABLE" && repository.image_scanning_configuration[0].scan_on_push && repository.encryption_configuration[0].encryption_type == "KMS"])
    error_message = "Tags are final, pushes are scanned, layers are encrypted."
  }
  assert {
    condition     = length(aws_ecr_lifecycle_policy.this) == length(aws_ecr_repository.this)
    error_message = "Old images go."
  }
}

run "database" {
  command = apply
  module { source = "./modules/rds" }
  variables {
    instance_class      = "db.m7g.large"
    multi_az            = true
    backup_days         = 30
    deletion_protection = true
  }
  assert {
    condition     = aws_db_instance.this.manage_master_user_password && aws_db_instance.this.password == null
    error_message = "RDS keeps the password; we never have it."
  }
  assert {
    condition     = aws_db_instance.this.storage_encrypted && !aws_db_instance.this.publicly_accessible && aws_db_instance.this.multi_az
    error_message = "Encrypted, private, in two zones."
  }
  assert {
    condition     = aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && aws_db_instance.this.backup_retention_period == 30
    error_message = "Not deleted by accident, and restorable."
  }
  assert {
    condition     = contains([for parameter in aws_db_parameter_group.this.parameter : "${parameter.name}=${parameter.value}"], "rds.force_ssl=1")
    error_message = "Only TLS."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.cluster.referenced_security_group_id == "sg-cluster" && aws_vpc_security_group_ingress_rule.cluster.cidr_ipv4 == null
    error_message = "Only the cluster connects."
  }
}

run "old_postgres_is_refused" {
  command = plan
  module { source = "./modules/rds" }
  variables {
    engine_version      = "15"
    instance_class      = "db.m7g.large"
    multi_az            = true
    backup_days         = 30
    deletion_protection = true
  }
  expect_failures = [var.engine_version]
}

run "cache" {
  command = apply
  module { source = "./modules/elasticache" }
  variables {
    node_type = "cache.t4g.small"
    replicas  = 1
  }
  assert {
    condition     = aws_elasticache_replication_group.this.transit_encryption_enabled && tostring(aws_elasticache_replication_group.this.at_rest_encryption_enabled) == "true" && aws_elasticache_replication_group.this.auth_token == "drawnByAwsForThisTest"
    error_message = "TLS, encryption at rest, and a password that was drawn."
  }
  assert {
    condition     = aws_elasticache_replication_group.this.automatic_failover_enabled && aws_elasticache_replication_group.this.num_cache_clusters == 2
    error_message = "A replica takes over."
  }
}

run "key" {
  command = plan
  module { source = "./modules/kms" }
  variables {
    name        = "flywheel-test/data"
    description = "a test"
    services    = ["logs.us-east-1.amazonaws.com"]
  }
  assert {
    condition     = aws_kms_key.this.enable_key_rotation
    error_message = "Keys rotate."
  }
  assert {
    condition     = jsondecode(aws_kms_key.this.policy).Statement[1].Condition.ArnLike["kms:EncryptionContext:aws:logs:arn"] == "arn:aws:logs:*:111122223333:log-group:*"
    error_message = "CloudWatch Logs uses the key for this account's logs only."
  }
}

run "alarms" {
  command = apply
  module { source = "./modules/alarms" }
  variables {
    emails         = ["ml@example.com"]
    monthly_budget = 600
    database       = "flywheel-test"
    cluster        = "flywheel-test"
  }
  assert {
    condition     = toset([for n in aws_budgets_budget.monthly.notification : "${n.notification_type} ${n.threshold}"]) == toset(["ACTUAL 50", "ACTUAL 80", "ACTUAL 100", "FORECASTED 100"])
    error_message = "Told before the money is spent."
  }
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : length(alarm.alarm_actions) == 1 && length(alarm.dimensions) == 1])
    error_message = "Each alarm looks at one thing and tells somebody."
  }
}
