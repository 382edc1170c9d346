variable "name" {
  description = "Alias of the key, without `alias/`."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9/-]{2,60}$", var.name))
    error_message = "Use 3 to 61 lower-case letters, digits, dashes and slashes, beginning with a letter."
  }
}

variable "description" {
  description = "What the key encrypts."
  type        = string
  validation {
    condition     = length(var.description) > 0
    error_message = "Say what the key encrypts."
  }
}

variable "services" {
  description = "AWS services that encrypt on their own behalf, such as logs.us-east-1.amazonaws.com."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for s in var.services : endswith(s, ".amazonaws.com")])
    error_message = "Each must be a service principal that ends in .amazonaws.com."
  }
}

variable "deletion_window_days" {
  description = "Days in which a deleted key can be brought back."
  type        = number
  default     = 30
  validation {
    condition     = var.deletion_window_days >= 7 && var.deletion_window_days <= 30
    error_message = "AWS allows 7 to 30 days."
  }
}
