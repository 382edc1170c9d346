# All that the flywheel needs of AWS, wired together. An environment is this module and its sizes.
data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

locals {
  region = data.aws_region.current.name
  bucket = "${var.name}-store-${data.aws_caller_identity.current.account_id}"
}

module "cluster_key" {
  source      = "../kms"
  name        = "${var.name}/cluster"
  description = "Kubernetes Secrets, the logs of control plane and network, alarms of ${var.name}"
  services    = ["logs.${local.region}.amazonaws.com", "cloudwatch.amazonaws.com", "budgets.amazonaws.com"]
}

module "data_key" {
  source      = "../kms"
  name        = "${var.name}/data"
  description = "Object store, database, cache and secrets of ${var.name}"
}

module "network" {
  source                   = "../network"
  name                     = var.name
  region                   = local.region
  cidr                     = var.cidr
  zones                    = var.zones
  nat_per_zone             = var.durable
  kms_key_arn              = module.cluster_key.arn
  permissions_boundary_arn = var.permissions_boundary_arn
}

module "eks" {
  source                   = "../eks"
  name                     = var.name
  kubernetes_version       = var.kubernetes_version
  subnet_ids               = module.network.private_subnet_ids
  api_cidrs                = var.api_cidrs
  admin_arns               = var.admin_arns
  node_groups              = var.node_groups
  kms_key_arn              = module.cluster_key.arn
  permissions_boundary_arn = var.permissions_boundary_arn
}

module "s3" {
  source        = "../s3"
  bucket        = local.bucket
  force_destroy = !var.durable
  kms_key_arn   = module.data_key.arn
}

module "rds" {
  source                   = "../rds"
  name                     = var.name
  vpc_id                   = module.network.vpc_id
  subnet_ids               = module.network.private_subnet_ids
  client_security_group_id = module.eks.security_group_id
  instance_class           = var.database_class
  multi_az                 = var.durable
  backup_days              = var.durable ? 30 : 7
  deletion_protection      = var.durable
  kms_key_arn              = module.data_key.arn
  permissions_boundary_arn = var.permissions_boundary_arn
}

module "cache" {
  source                   = "../elasticache"
  count                    = var.cache_node_type == null ? 0 : 1
  name                     = var.name
  vpc_id                   = module.network.vpc_id
  subnet_ids               = module.network.private_subnet_ids
  client_security_group_id = module.eks.security_group_id
  node_type                = var.cache_node_type
  replicas                 = var.durable ? 1 : 0
  recovery_days            = local.recovery_days
  kms_key_arn              = module.data_key.arn
}

module "secrets" {
  source        = "../secrets"
  name          = var.name
  entries       = local.secrets
  recovery_days = local.recovery_days
  kms_key_arn   = module.data_key.arn
}

module "iam" {
  source                   = "../iam"
  name                     = var.name
  service_accounts         = local.service_accounts
  bucket_arn               = module.s3.arn
  oidc_provider_arn        = module.eks.oidc_provider_arn
  oidc_issuer              = module.eks.oidc_issuer
  kms_key_arn              = module.data_key.arn
  permissions_boundary_arn = var.permissions_boundary_arn
}

module "alarms" {
  source         = "../alarms"
  name           = var.name
  emails         = var.alarm_emails
  monthly_budget = var.monthly_budget
  database       = module.rds.identifier
  cluster        = module.eks.cluster_name
  kms_key_arn    = module.cluster_key.arn
}
