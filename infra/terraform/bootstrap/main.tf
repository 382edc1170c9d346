# Once an account, by a person with all rights: where Terraform keeps its state and the images lie, and what GitHub Actions may do.
provider "aws" {
  region = var.region
  default_tags { tags = { Project = "flywheel", Environment = "bootstrap", Owner = var.owner, ManagedBy = "terraform" } }
}

data "aws_caller_identity" "current" {}

module "key" {
  source      = "../modules/kms"
  name        = "flywheel/bootstrap"
  description = "Terraform's state, and the images"
}

module "state" {
  source          = "../modules/s3"
  bucket          = "flywheel-state-${data.aws_caller_identity.current.account_id}"
  lifecycle_days  = {}
  noncurrent_days = 365 # every earlier state can be brought back for a year
  kms_key_arn     = module.key.arn
}

# One registry for all environments: the image that dev tried is the one that prod runs.
module "images" {
  source      = "../modules/ecr"
  name        = "flywheel"
  kms_key_arn = module.key.arn
}

module "github" {
  source           = "../modules/github"
  count            = var.repository == null ? 0 : 1
  name             = "flywheel"
  repository       = var.repository
  environments     = var.environments
  state_bucket_arn = module.state.arn
  state_key_arn    = module.key.arn
}
