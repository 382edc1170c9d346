output "backend" {
  description = "Backend settings of each environment: what belongs in its backend.hcl."
  value = { for name in concat(["bootstrap"], var.environments) : name => <<-EOT
    bucket       = "${module.state.bucket}"
    key          = "${name}/terraform.tfstate"
    region       = "${var.region}"
    kms_key_id   = "${module.key.arn}"
    encrypt      = true
    use_lockfile = true
  EOT
  }
}

output "registry" {
  description = "Registry of the images, without a path."
  value       = module.images.registry
}

output "ci_role_arns" {
  description = "Roles for the workflows, by kind of job."
  value       = one(module.github[*].role_arns)
}

output "permissions_boundary_arn" {
  description = "Boundary that the environments' roles must carry when CI applies."
  value       = one(module.github[*].boundary_arn)
}
