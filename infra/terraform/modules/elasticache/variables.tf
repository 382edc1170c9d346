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
    error_message = "Use subnets in at least two zones."
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

variable "node_type" {
  description = "Size of a node."
  type        = string
  validation {
    condition     = startswith(var.node_type, "cache.")
    error_message = "Use an ElastiCache type, such as cache.t4g.small."
  }
}

variable "replicas" {
  description = "Copies beside the primary, in other zones; with one or more a failover is automatic."
  type        = number
  default     = 0
  validation {
    condition     = var.replicas >= 0 && var.replicas <= 5
    error_message = "Use 0 to 5."
  }
}

variable "recovery_days" {
  description = "Days in which a deleted secret can be brought back; 0 deletes at once."
  type        = number
  default     = 30
  validation {
    condition     = var.recovery_days == 0 || (var.recovery_days >= 7 && var.recovery_days <= 30)
    error_message = "Use 0, or 7 to 30."
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

