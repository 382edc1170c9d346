variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "region" {
  description = "AWS region of the S3 endpoint."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Use a region's code, such as us-east-1."
  }
}

variable "cidr" {
  description = "The VPC's IPv4 range."
  type        = string
  default     = "10.20.0.0/16"
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && tonumber(split("/", var.cidr)[1]) == 16
    error_message = "Use a private /16, such as 10.20.0.0/16: each pod takes an address."
  }
}

variable "zones" {
  description = "Letters of three availability zones. They are named, not looked up: a list that AWS lengthens would move subnets."
  type        = list(string)
  default     = ["a", "b", "c"]
  validation {
    condition     = length(distinct(var.zones)) == 3 && alltrue([for letter in var.zones : can(regex("^[a-z]$", letter))])
    error_message = "Name three different letters, such as [\"a\", \"b\", \"c\"]."
  }
}

variable "nat_per_zone" {
  description = "One NAT gateway a zone (survives the loss of a zone) instead of one in all (a third of the price)."
  type        = bool
  validation {
    condition     = var.nat_per_zone != null
    error_message = "Say true or false."
  }
}

variable "log_retention_days" {
  description = "Days the flow logs are kept."
  type        = number
  default     = 365
  validation {
    condition     = contains([30, 90, 180, 365, 731], var.log_retention_days)
    error_message = "Use 30, 90, 180, 365 or 731."
  }
}

variable "kms_key_arn" {
  description = "Key of the log group."
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
