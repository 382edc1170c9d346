# What GitHub Actions may do, without a stored key: push images, plan, apply one environment after its approval, and start a turn.
data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  arn     = "arn:${data.aws_partition.current.partition}"
  account = data.aws_caller_identity.current.account_id
  roles   = "${local.arn}:iam::${local.account}:role/${var.name}-*"
  ci      = "${local.arn}:iam::${local.account}:role/${var.name}-ci-*"
  repo    = "repo:${var.repository}"
  stores  = "${local.arn}:s3:::${var.name}-*-store-${local.account}"

  # The `sub` claims that may take a role. Apply: only a job in the GitHub environment, whose reviewers have agreed.
  trust = merge(
    { images = ["${local.repo}:ref:refs/heads/main", "${local.repo}:ref:refs/tags/v*"], plan = ["${local.repo}:pull_request", "${local.repo}:ref:refs/heads/main"] },
    { turn = ["${local.repo}:environment:turn"] },
    { for environment in var.environments : "apply-${environment}" => ["${local.repo}:environment:${environment}"] },
  )
}

resource "aws_iam_openid_connect_provider" "this" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "this" {
  for_each             = local.trust
  name                 = "${var.name}-ci-${each.key}"
  description          = "GitHub Actions of ${var.repository}: ${each.key}"
  max_session_duration = each.key == "turn" ? 21600 : 7200 # a turn is followed to its end
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = aws_iam_openid_connect_provider.this.arn }
      Condition = {
        StringEquals = { "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com" }
        StringLike   = { "token.actions.githubusercontent.com:sub" = each.value }
      }
    }]
  })
}

resource "aws_iam_role_policy" "images" {
  #checkov:skip=CKV_AWS_355:ecr:GetAuthorizationToken knows no resources; pushing is bound to this project's repositories
  name = "push"
  role = aws_iam_role.this["images"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = "ecr:GetAuthorizationToken", Resource = "*" },
      {
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:DescribeImageScanFindings", "ecr:DescribeImages",
          "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        Resource = "${local.arn}:ecr:*:${local.account}:repository/${var.name}/*"
      },
    ]
  })
}

# Plan reads settings, never data: a pull request must not be able to print a user's feedback or a password.
resource "aws_iam_role_policy_attachment" "plan" {
  role       = aws_iam_role.this["plan"].name
  policy_arn = "${local.arn}:iam::aws:policy/ReadOnlyAccess"
}

resource "aws_iam_role_policy" "plan" {
  name = "state-but-no-data"
  role = aws_iam_role.this["plan"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["s3:GetObject", "s3:ListBucket"], Resource = [var.state_bucket_arn, "${var.state_bucket_arn}/*"] },
      { Effect = "Allow", Action = ["s3:PutObject", "s3:DeleteObject"], Resource = "${var.state_bucket_arn}/*/terraform.tfstate.tflock" },
      { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = var.state_key_arn },
      { Effect = "Deny", Action = ["s3:GetObject", "s3:GetObjectVersion"], NotResource = "${var.state_bucket_arn}/*" },
      { Effect = "Deny", Action = ["logs:GetLogEvents", "logs:FilterLogEvents", "logs:StartQuery"], Resource = "*" },
      # Drawing a random password reads nothing, and planning draws one.
      { Effect = "Allow", Action = "secretsmanager:GetRandomPassword", Resource = "*" },
    ]
  })
}

# A turn: leave its config in the store, and read what the runs say of themselves.
resource "aws_iam_role_policy" "turn" {
  name = "configs-and-runs"
  role = aws_iam_role.this["turn"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = "s3:PutObject", Resource = "${local.stores}/configs/*" },
      { Effect = "Allow", Action = "s3:GetObject", Resource = ["${local.stores}/configs/*", "${local.stores}/runs/*"] },
      { Effect = "Allow", Action = "s3:ListBucket", Resource = local.stores, Condition = { StringLike = { "s3:prefix" = ["configs/*", "runs/*"] } } },
      {
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "${local.arn}:kms:*:${local.account}:key/*"
        Condition = { "ForAnyValue:StringLike" = { "kms:ResourceAliases" = "alias/${var.name}-*/data" } }
      },
    ]
  })
}

# Apply: everything but IAM (PowerUserAccess), and of IAM only this project's roles, never above the boundary and never its own.
resource "aws_iam_role_policy_attachment" "apply" {
  for_each   = toset(var.environments)
  role       = aws_iam_role.this["apply-${each.value}"].name
  policy_arn = "${local.arn}:iam::aws:policy/PowerUserAccess"
}

resource "aws_iam_role_policy" "apply" {
  #checkov:skip=CKV_AWS_286:roles are made only with the boundary attached, so none gets more than the boundary gives
  for_each = toset(var.environments)
  name     = "roles-below-the-boundary"
  role     = aws_iam_role.this["apply-${each.value}"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "BoundedRoles"
        Effect    = "Allow"
        Action    = ["iam:CreateRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:AttachRolePolicy", "iam:DetachRolePolicy", "iam:PutRolePermissionsBoundary"]
        Resource  = local.roles
        Condition = { StringEquals = { "iam:PermissionsBoundary" = aws_iam_policy.boundary.arn } }
      },
      {
        Sid    = "ManageRoles"
        Effect = "Allow"
        Action = [
          "iam:GetRole", "iam:GetRolePolicy", "iam:ListRolePolicies", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole",
          "iam:TagRole", "iam:UntagRole", "iam:UpdateRole", "iam:UpdateAssumeRolePolicy", "iam:DeleteRole",
        ]
        Resource = local.roles
      },
      {
        Sid       = "HandRolesToServices"
        Effect    = "Allow"
        Action    = "iam:PassRole"
        Resource  = local.roles
        Condition = { StringEquals = { "iam:PassedToService" = ["eks.amazonaws.com", "ec2.amazonaws.com", "monitoring.rds.amazonaws.com", "vpc-flow-logs.amazonaws.com"] } }
      },
      {
        Sid      = "ClusterIdentity"
        Effect   = "Allow"
        Action   = ["iam:CreateOpenIDConnectProvider", "iam:DeleteOpenIDConnectProvider", "iam:GetOpenIDConnectProvider", "iam:TagOpenIDConnectProvider"]
        Resource = "${local.arn}:iam::${local.account}:oidc-provider/oidc.eks.*"
      },
      {
        Sid      = "NotItself"
        Effect   = "Deny"
        Action   = ["iam:*", "sts:AssumeRole"]
        Resource = local.ci
      },
      {
        Sid      = "NotTheOthersState"
        Effect   = "Deny"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        Resource = concat(["${var.state_bucket_arn}/bootstrap/*"], [for other in setsubtract(var.environments, [each.value]) : "${var.state_bucket_arn}/${other}/*"])
      },
    ]
  })
}

# The most that any role of this project can ever do. An upper bound grants nothing.
resource "aws_iam_policy" "boundary" {
  #checkov:skip=CKV_AWS_287:a permissions boundary grants nothing; it caps what the roles' own policies grant
  #checkov:skip=CKV_AWS_288:a permissions boundary grants nothing
  #checkov:skip=CKV_AWS_289:a permissions boundary grants nothing
  #checkov:skip=CKV_AWS_290:a permissions boundary grants nothing
  #checkov:skip=CKV_AWS_355:a permissions boundary grants nothing
  name        = "${var.name}-boundary"
  description = "Upper bound of every role of ${var.name}"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "autoscaling:*", "cloudwatch:*", "ec2:*", "ecr:*", "eks:*", "eks-auth:*", "elasticloadbalancing:*", "kms:*", "logs:*", "s3:*",
          "secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue",
        ]
        Resource = "*"
      },
      { Effect = "Allow", Action = "iam:CreateServiceLinkedRole", Resource = "*" },
      { Effect = "Deny", Action = ["s3:*"], Resource = [var.state_bucket_arn, "${var.state_bucket_arn}/*"] },
    ]
  })
}
