variable "name" {
  description = "Name of the cluster and prefix of its roles."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and dashes, beginning with a letter."
  }
}

variable "kubernetes_version" {
  description = "Kubernetes minor version. `aws eks describe-cluster-versions` lists those in support."
  type        = string
  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "Use a minor version, such as 1.35."
  }
}

variable "subnet_ids" {
  description = "Private subnets of the control plane's interfaces and of all nodes."
  type        = list(string)
  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "EKS needs subnets in at least two zones."
  }
}

variable "api_cidrs" {
  description = "Networks that may reach the Kubernetes API from outside the VPC; an empty list turns the public endpoint off."
  type        = list(string)
  validation {
    condition     = alltrue([for cidr in var.api_cidrs : can(cidrhost(cidr, 0)) && tonumber(split("/", cidr)[1]) >= 8])
    error_message = "Each must be an IPv4 range no wider than /8; the API is never open to the whole internet."
  }
}

variable "admin_arns" {
  description = "IAM roles or users that administer the cluster. Nobody else does, not even who creates it."
  type        = list(string)
  validation {
    condition     = length(var.admin_arns) > 0 && alltrue([for arn in var.admin_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/", arn))])
    error_message = "Name at least one role or user by its ARN: arn:aws:iam::ACCOUNT:role/NAME. An assumed role's session is not one."
  }
}

variable "node_groups" {
  description = "Node groups by name. `pool` is the label flywheel/pool that config/pods.yaml selects; `gpu` brings NVIDIA's AMI and the taint."
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
    condition     = alltrue([for group in var.node_groups : !group.gpu || group.min_size == 0])
    error_message = "A GPU group must have min_size 0: it costs money only while a stage runs on it."
  }
  validation {
    condition     = anytrue([for group in var.node_groups : !group.gpu && group.min_size > 0])
    error_message = "At least one CPU group needs min_size 1 or more: CoreDNS and the autoscaler live there."
  }
  validation {
    condition     = alltrue([for group in var.node_groups : contains(["cpu", "gpu", "multi-gpu"], group.pool) && group.gpu == (group.pool != "cpu")])
    error_message = "pool is cpu, gpu or multi-gpu, and gpu is true for the latter two."
  }
  validation {
    condition     = alltrue([for group in var.node_groups : group.max_size >= max(group.min_size, 1) && group.disk_gib >= 50])
    error_message = "max_size must be at least 1 and min_size, and disk_gib at least 50: images and scratch space live there."
  }
}

variable "log_retention_days" {
  description = "Days the control plane's logs are kept."
  type        = number
  default     = 365
  validation {
    condition     = contains([30, 90, 180, 365, 731], var.log_retention_days)
    error_message = "Use 30, 90, 180, 365 or 731."
  }
}

variable "kms_key_arn" {
  description = "Key of Kubernetes Secrets and of the control plane's logs."
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
