variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "service_accounts" {
  description = "Kubernetes service accounts: prefixes of the store they read, write and delete below, and ARNs of the secrets they read. Writing includes reading."
  type = map(object({
    namespace = optional(string, "flywheel")
    read      = optional(list(string), [])
    write     = optional(list(string), [])
    delete    = optional(list(string), [])
    secrets   = optional(list(string), [])
  }))
  validation {
    condition     = alltrue(flatten([for grant in var.service_accounts : [for prefix in concat(grant.read, grant.write, grant.delete) : can(regex("^[a-z][a-z0-9/-]*/$", prefix))]]))
    error_message = "A prefix is a path such as runs/, with a slash at its end and no wildcard: nobody gets the whole bucket."
  }
  validation {
    condition     = alltrue(flatten([for grant in var.service_accounts : [for arn in grant.secrets : !strcontains(arn, "*")]]))
    error_message = "Secrets are named one by one, without a wildcard."
  }
}

variable "bucket_arn" {
  description = "ARN of the store's bucket."
  type        = string
  validation {
    condition     = startswith(var.bucket_arn, "arn:")
    error_message = "Use the bucket's ARN."
  }
}

variable "oidc_provider_arn" {
  description = "The cluster's identity provider."
  type        = string
  validation {
    condition     = startswith(var.oidc_provider_arn, "arn:")
    error_message = "Use the provider's ARN."
  }
}

variable "oidc_issuer" {
  description = "The cluster's issuer, without https://."
  type        = string
  validation {
    condition     = !startswith(var.oidc_issuer, "https://")
    error_message = "Leave https:// away."
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

variable "permissions_boundary_arn" {
  description = "Upper bound of every role made here; null for none."
  type        = string
  default     = null
  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:.*:policy/", var.permissions_boundary_arn))
    error_message = "Use a policy's ARN, or null."
  }
}

