variable "bucket" {
  description = "Name of the store's bucket, unique in all of AWS."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,49}[a-z0-9]$", var.bucket))
    error_message = "Use 4 to 51 lower-case letters, digits and dashes."
  }
}

variable "lifecycle_days" {
  description = "Per prefix: days until objects move to infrequent access, and until they expire. Runs, feedback and data sets never expire here: lineage needs them, and housekeeping knows which."
  type = map(object({
    infrequent_access = optional(number)
    expire            = optional(number)
  }))
  default = {
    "runs/"         = { infrequent_access = 60 }
    "feedback/"     = { infrequent_access = 90 }
    "mlflow/"       = { infrequent_access = 90 }
    "cache/scores/" = { expire = 90 }
    "airflow/logs/" = { expire = 90 }
  }
  validation {
    condition     = alltrue([for prefix, _ in var.lifecycle_days : endswith(prefix, "/") && !startswith(prefix, "/")])
    error_message = "A prefix ends in a slash and does not begin with one: runs/."
  }
  validation {
    condition     = alltrue([for days in var.lifecycle_days : coalesce(days.infrequent_access, 30) >= 30 && coalesce(days.expire, 1) >= 1])
    error_message = "Infrequent access is possible from day 30 on, expiry from day 1."
  }
  validation {
    condition     = alltrue([for prefix in ["runs/", "feedback/", "datasets/", "mlflow/"] : try(var.lifecycle_days[prefix].expire, null) == null])
    error_message = "runs/, feedback/, datasets/ and mlflow/ must not expire: a served version's lineage would be cut."
  }
}

variable "noncurrent_days" {
  description = "Days until an overwritten or deleted object is gone for good."
  type        = number
  default     = 30
  validation {
    condition     = var.noncurrent_days >= 1 && var.noncurrent_days <= 365
    error_message = "Use 1 to 365 days."
  }
}

variable "access_log_days" {
  description = "Days the access log is kept."
  type        = number
  default     = 365
  validation {
    condition     = var.access_log_days >= 30
    error_message = "Keep at least 30 days."
  }
}

variable "force_destroy" {
  description = "Whether destroy deletes buckets that hold objects."
  type        = bool
  default     = false
  validation {
    condition     = var.force_destroy != null
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

