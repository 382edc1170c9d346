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

variable "repository" {
  description = "The repository on GitHub whose workflows are trusted, OWNER/NAME; null when CI does not touch AWS."
  type        = string
  default     = null
  validation {
    condition     = var.repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "Write OWNER/NAME, without a wildcard."
  }
}

variable "environments" {
  description = "Environments that live in this account. Keep dev and prod in accounts of their own where you can."
  type        = list(string)
  default     = ["dev", "prod"]
  validation {
    condition     = length(var.environments) > 0
    error_message = "Name at least one."
  }
}
