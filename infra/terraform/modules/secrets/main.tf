# Secrets Manager entries. A generated one is drawn by AWS while applying and written without passing through plan or state;
# the others are empty until a person puts a value.
resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:rotated by raising `generation`, which docs/aws.md explains; the master password is rotated by RDS itself
  for_each                = var.entries
  name                    = "${var.name}/${each.key}"
  description             = each.value.description
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.recovery_days
}

locals {
  generated = { for name, entry in var.entries : name => entry if entry.value != null }
}

ephemeral "aws_secretsmanager_random_password" "this" {
  for_each            = local.generated
  password_length     = 32
  exclude_punctuation = true # it stands in URLs
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each  = local.generated
  secret_id = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo = jsonencode({ for key, value in each.value.value : key => replace(replace(value,
    "<random>", ephemeral.aws_secretsmanager_random_password.this[each.key].random_password),
    "<random-base64>", base64encode(ephemeral.aws_secretsmanager_random_password.this[each.key].random_password))
  })
  secret_string_wo_version = each.value.generation
}
