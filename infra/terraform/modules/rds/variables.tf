variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
  validation {
    condition     = length(var.vpc_id) > 0
    error_message = "Name the VPC."
  }
}

variable "subnet_ids" {
  description = "Private subnets, in at least two zones."
  type        = list(string)
  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "RDS needs subnets in at least two zones."
  }
}

variable "client_security_group_id" {
  description = "Security group of those who may connect."
  type        = string
  validation {
    condition     = length(var.client_security_group_id) > 0
    error_message = "Name the cluster's security group."
  }
}

variable "engine_version" {
  description = "Major version of PostgreSQL."
  type        = string
  default     = "17"
  validation {
    condition     = can(regex("^[0-9]{2}$", var.engine_version)) && try(tonumber(var.engine_version) >= 16, false)
    error_message = "Use a major version from 16 on."
  }
}

variable "instance_class" {
  description = "Size of the instance."
  type        = string
  validation {
    condition     = startswith(var.instance_class, "db.")
    error_message = "Use an RDS class, such as db.t4g.medium."
  }
}

variable "storage_gib" {
  description = "Storage at the start."
  type        = number
  default     = 50
  validation {
    condition     = var.storage_gib >= 20
    error_message = "RDS gives gp3 storage from 20 GiB on."
  }
}

variable "max_storage_gib" {
  description = "Storage it may grow to by itself."
  type        = number
  default     = 500
  validation {
    condition     = var.max_storage_gib > var.storage_gib
    error_message = "Must be more than storage_gib."
  }
}

variable "multi_az" {
  description = "A standby in a second zone that takes over by itself."
  type        = bool
  validation {
    condition     = var.multi_az != null
    error_message = "Say true or false."
  }
}

variable "backup_days" {
  description = "Days of backups, each restorable to any second."
  type        = number
  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "RDS keeps 1 to 35 days."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the database, and leave a final snapshot when it is deleted after all."
  type        = bool
  validation {
    condition     = var.deletion_protection != null
    error_message = "Say true or false."
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

