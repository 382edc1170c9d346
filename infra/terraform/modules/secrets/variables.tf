variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "entries" {
  description = "Secrets by name. `value` maps keys to text in which <random> becomes a new password of 32 letters and digits, and <random-base64> the same in base64; null is filled by a person. Raising `generation` draws a new one."
  type = map(object({
    description = string
    value       = optional(map(string))
    generation  = optional(number, 1)
  }))
  validation {
    condition     = alltrue([for name, _ in var.entries : can(regex("^[a-z][a-z0-9-]*$", name))])
    error_message = "Names are lower-case letters, digits and dashes."
  }
  validation {
    condition     = alltrue([for entry in var.entries : entry.value == null || strcontains(join("", values(coalesce(entry.value, {}))), "<random")])
    error_message = "A generated value holds <random> or <random-base64>: a fixed secret does not belong in code."
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

