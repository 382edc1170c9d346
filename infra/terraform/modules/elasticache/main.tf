# Valkey, for Feast's online store and for queues. TLS and a password of its own; every key may be lost.
resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnet_ids
}

resource "aws_security_group" "this" {
  name        = "${var.name}-valkey"
  description = "Valkey, from the cluster only"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-valkey" }
}

resource "aws_vpc_security_group_ingress_rule" "cluster" {
  security_group_id            = aws_security_group.this.id
  description                  = "Pods and nodes of the cluster"
  referenced_security_group_id = var.client_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

# Drawn once and remembered. Unlike the other secrets it lies in the (encrypted) state: ElastiCache takes no write-only password.
data "aws_secretsmanager_random_password" "token" {
  password_length     = 64
  exclude_punctuation = true
}

resource "terraform_data" "token" {
  input = data.aws_secretsmanager_random_password.token.random_password
  lifecycle { ignore_changes = [input] }
}

locals {
  token = sensitive(terraform_data.token.output)
}

resource "aws_elasticache_replication_group" "this" {
  #checkov:skip=CKV2_AWS_50:a replica doubles the price: a choice of each environment; tests hold prod to it
  replication_group_id       = var.name
  description                = "Online features of ${var.name}"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.node_type
  num_cache_clusters         = var.replicas + 1
  automatic_failover_enabled = var.replicas > 0
  multi_az_enabled           = var.replicas > 0
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.this.id]
  port                       = 6379

  transit_encryption_enabled = true
  auth_token                 = local.token
  at_rest_encryption_enabled = true
  kms_key_id                 = var.kms_key_arn
}

resource "aws_secretsmanager_secret" "url" {
  #checkov:skip=CKV2_AWS_57:the token is replaced by `terraform apply -replace=module.platform.module.cache[0].terraform_data.token`
  name                    = "${var.name}/cache"
  description             = "Key `url`: rediss:// address of the cache"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.recovery_days
}

resource "aws_secretsmanager_secret_version" "url" {
  secret_id = aws_secretsmanager_secret.url.id
  secret_string = jsonencode({
    url = "rediss://:${local.token}@${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
  })
}
