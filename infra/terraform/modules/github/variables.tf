variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "repository" {
  description = "The repository on GitHub whose workflows are trusted: OWNER/NAME."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "Write OWNER/NAME, without a wildcard."
  }
}

variable "environments" {
  description = "GitHub environments that apply to this account."
  type        = list(string)
  validation {
    condition     = length(var.environments) > 0 && alltrue([for name in var.environments : can(regex("^[a-z]+$", name))])
    error_message = "Name at least one, in lower-case letters."
  }
}

variable "state_bucket_arn" {
  description = "ARN of the bucket with Terraform's state."
  type        = string
  validation {
    condition     = startswith(var.state_bucket_arn, "arn:")
    error_message = "Use the bucket's ARN."
  }
}

variable "state_key_arn" {
  description = "ARN of the key that encrypts the state."
  type        = string
  validation {
    condition     = startswith(var.state_key_arn, "arn:")
    error_message = "Use the key's ARN."
  }
}
