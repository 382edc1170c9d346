variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "emails" {
  description = "Who is told. Each address must confirm the mail that AWS sends first."
  type        = list(string)
  validation {
    condition     = length(var.emails) > 0 && alltrue([for email in var.emails : can(regex("^[^@ ]+@[^@ ]+[.][^@ ]+$", email))])
    error_message = "Name at least one e-mail address."
  }
}

variable "monthly_budget" {
  description = "US dollars a month for the account: told at 50, 80 and 100 % spent, and when the forecast passes 100 %."
  type        = number
  validation {
    condition     = var.monthly_budget > 0
    error_message = "Name an amount above 0."
  }
}

variable "database" {
  description = "Name of the RDS instance."
  type        = string
  validation {
    condition     = length(var.database) > 0
    error_message = "Name the instance."
  }
}

variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
  validation {
    condition     = length(var.cluster) > 0
    error_message = "Name the cluster."
  }
}

variable "kms_key_arn" {
  description = "Key that encrypts it all."
  type        = string
  validation {
    condition     = startswith(var.kms_key_arn, "arn:")
    error_message = "Use the key's ARN."
  }
}

