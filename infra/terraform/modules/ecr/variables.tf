variable "name" {
  description = "Prefix of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "images" {
  description = "Images, one repository each."
  type        = list(string)
  default     = ["airflow", "data", "train", "serving", "ui"]
  validation {
    condition     = length(var.images) > 0 && alltrue([for image in var.images : can(regex("^[a-z][a-z0-9-]*$", image))])
    error_message = "Name at least one image, in lower-case letters, digits and dashes."
  }
}

variable "keep_images" {
  description = "Images kept in each repository."
  type        = number
  default     = 100
  validation {
    condition     = var.keep_images >= 10
    error_message = "Keep at least 10, or a rollback finds nothing."
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

