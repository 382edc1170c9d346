variable "name" {
  description = "Prefix of every name, such as flywheel-dev."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,26}$", var.name))
    error_message = "Use 3 to 27 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "durable" {
  description = "For what must not be lost: a second zone for database and cache, a NAT gateway a zone, 30 days of backups, deletion protection. Without it, destroy takes everything at once."
  type        = bool
  validation {
    condition     = var.durable != null
    error_message = "Say true or false."
  }
}

variable "cidr" {
  description = "The VPC's IPv4 range, a /16."
  type        = string
  default     = "10.20.0.0/16"
  validation {
    condition     = can(cidrhost(var.cidr, 0))
    error_message = "Use a private /16, such as 10.20.0.0/16."
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

variable "kubernetes_version" {
  description = "Kubernetes minor version."
  type        = string
  default     = "1.35"
  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "Use a minor version, such as 1.35."
  }
}

variable "api_cidrs" {
  description = "Networks that may reach the Kubernetes API from outside; empty: none."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for cidr in var.api_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "Each must be an IPv4 range, and not the whole internet."
  }
}

variable "admin_arns" {
  description = "IAM roles or users that administer the cluster."
  type        = list(string)
  validation {
    condition     = length(var.admin_arns) > 0
    error_message = "Name at least one role or user by its ARN."
  }
}

variable "node_groups" {
  description = "Node groups by name; see modules/eks."
  type = map(object({
    pool           = string
    instance_types = list(string)
    min_size       = number
    max_size       = number
    disk_gib       = number
    gpu            = optional(bool, false)
    spot           = optional(bool, false)
  }))
  validation {
    condition     = contains([for group in var.node_groups : group.pool], "cpu")
    error_message = "A group of the pool cpu is needed."
  }
}

variable "database_class" {
  description = "Size of the database instance."
  type        = string
  validation {
    condition     = startswith(var.database_class, "db.")
    error_message = "Use an RDS class, such as db.t4g.medium."
  }
}

variable "cache_node_type" {
  description = "Size of the Valkey nodes; null for no cache."
  type        = string
  default     = null
  validation {
    condition     = var.cache_node_type == null || can(startswith(var.cache_node_type, "cache."))
    error_message = "Use an ElastiCache type, such as cache.t4g.small, or null."
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
  description = "US dollars a month for the account."
  type        = number
  validation {
    condition     = var.monthly_budget > 0
    error_message = "Name an amount above 0."
  }
}

variable "permissions_boundary_arn" {
  description = "Upper bound of every role, made by bootstrap; null when people with all rights apply."
  type        = string
  default     = null
  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:.*:policy/", var.permissions_boundary_arn))
    error_message = "Use a policy's ARN, or null."
  }
}
