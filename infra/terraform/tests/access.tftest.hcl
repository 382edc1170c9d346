# Roles of pods and of GitHub Actions.
mock_provider "aws" {
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_region" { defaults = { name = "us-east-1" } }
  mock_data "aws_caller_identity" { defaults = { account_id = "111122223333" } }
  mock_resource "aws_iam_openid_connect_provider" { defaults = { arn = "arn:aws:iam::111122223333:oidc-provider/mock" } }
  mock_resource "aws_iam_policy" { defaults = { arn = "arn:aws:iam::111122223333:policy/flywheel-boundary" } }
}

variables {
  name              = "flywheel"
  bucket_arn        = "arn:aws:s3:::store"
  oidc_provider_arn = "arn:aws:iam::111122223333:oidc-provider/oidc.test"
  oidc_issuer       = "oidc.test"
  kms_key_arn       = "arn:aws:kms:us-east-1:111122223333:key/test"
  repository        = "example-org/flywheel"
  environments      = ["dev", "prod"]
  state_bucket_arn  = "arn:aws:s3:::state"
  state_key_arn     = "arn:aws:kms:us-east-1:111122223333:key/state"
}

run "pods" {
  command = apply
  module { source = "./modules/iam" }
  variables {
    service_accounts = {
      flywheel-train   = { read = ["datasets/"], write = ["runs/"] }
      flywheel-mlflow  = { write = ["mlflow/"], delete = ["mlflow/"] }
      external-secrets = { namespace = "external-secrets", secrets = ["arn:aws:secretsmanager:us-east-1:111122223333:secret:one"] }
    }
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["flywheel-train"].assume_role_policy).Statement[0].Condition.StringEquals["oidc.test:sub"] == "system:serviceaccount:flywheel:flywheel-train"
    error_message = "A role trusts one service account."
  }
  assert {
    condition = { for statement in jsondecode(aws_iam_role_policy.this["flywheel-train"].policy).Statement : statement.Sid => statement.Resource } == {
      List  = ["arn:aws:s3:::store"]
      Read  = ["arn:aws:s3:::store/datasets/*", "arn:aws:s3:::store/runs/*"]
      Write = ["arn:aws:s3:::store/runs/*"]
      Key   = ["arn:aws:kms:us-east-1:111122223333:key/test"]
    }
    error_message = "Training reads data sets, writes runs, deletes nothing and sees no secret."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.this["flywheel-train"].policy).Statement[0].Condition.StringLike["s3:prefix"] == ["datasets/*", "datasets", "runs/*", "runs"]
    error_message = "It lists only what it may read."
  }
  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.this["external-secrets"].policy).Statement : statement.Sid] == ["Secrets", "Key"]
    error_message = "External Secrets reads secrets and no data."
  }
}

run "the_whole_bucket_is_refused" {
  command = plan
  module { source = "./modules/iam" }
  variables { service_accounts = { flywheel-train = { write = ["*"] } } }
  expect_failures = [var.service_accounts]
}

run "github" {
  command = apply
  module { source = "./modules/github" }
  assert {
    condition     = keys(aws_iam_role.this) == ["apply-dev", "apply-prod", "images", "plan", "turn"]
    error_message = "A role for each kind of job."
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["apply-prod"].assume_role_policy).Statement[0].Condition.StringLike["token.actions.githubusercontent.com:sub"] == ["repo:example-org/flywheel:environment:prod"]
    error_message = "prod is applied only by a job in the environment prod, after its approval."
  }
  assert {
    condition = alltrue([for role in aws_iam_role.this : alltrue([for subject in jsondecode(role.assume_role_policy).Statement[0].Condition.StringLike["token.actions.githubusercontent.com:sub"] :
    startswith(subject, "repo:example-org/flywheel:")])])
    error_message = "No other repository takes a role."
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_role_policy.apply["dev"].policy).Statement : s if try(s.Sid, "") == "BoundedRoles"]).Condition.StringEquals["iam:PermissionsBoundary"] == "arn:aws:iam::111122223333:policy/flywheel-boundary"
    error_message = "CI makes no role above the boundary."
  }
  assert {
    condition     = contains(one([for s in jsondecode(aws_iam_role_policy.apply["dev"].policy).Statement : s if try(s.Sid, "") == "NotTheOthersState"]).Resource, "arn:aws:s3:::state/prod/*")
    error_message = "dev's job does not touch prod's state."
  }
}

run "every_repository_is_refused" {
  command = plan
  module { source = "./modules/github" }
  variables { repository = "example-org/*" }
  expect_failures = [var.repository]
}
