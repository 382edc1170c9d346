variable "region" {
  description = "AWS region."
  type        = string
  default     = "us-east-1"
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Use a region's code, such as us-east-1."
  }
}

variable "owner" {
  description = "Team that owns it all, for the tag Owner."
  type        = string
  validation {
    condition     = length(var.owner) > 0
    error_message = "Name the team."
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

variable "admin_arns" {
  description = "IAM roles or users that administer the cluster: arn:aws:iam::ACCOUNT:role/NAME."
  type        = list(string)
  validation {
    condition     = length(var.admin_arns) > 0
    error_message = "Name at least one role or user by its ARN."
  }
}

variable "api_cidrs" {
  description = "Networks that may reach the Kubernetes API from outside the VPC; empty: none."
  type        = list(string)
  default     = []
  validation {
    condition     = !contains(var.api_cidrs, "0.0.0.0/0")
    error_message = "The API is never open to the whole internet."
  }
}

variable "alarm_emails" {
  description = "Who is told of alarms and of the budget."
  type        = list(string)
  validation {
    condition     = length(var.alarm_emails) > 0
    error_message = "Name at least one e-mail address."
  }
}

variable "monthly_budget" {
  description = "US dollars a month for the account; docs/aws.md estimates them."
  type        = number
  validation {
    condition     = var.monthly_budget > 0
    error_message = "Name an amount above 0."
  }
}

variable "permissions_boundary_arn" {
  description = "Output of bootstrap; needed when CI applies."
  type        = string
  default     = null
  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:.*:policy/", var.permissions_boundary_arn))
    error_message = "Use a policy's ARN, or null."
  }
}
