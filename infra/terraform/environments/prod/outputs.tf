output "cluster_name" {
  description = "Name of the EKS cluster."
  value       = module.platform.cluster_name
}

output "bucket" {
  description = "Bucket of the object store."
  value       = module.platform.bucket
}

output "database_host" {
  description = "Address of PostgreSQL."
  value       = module.platform.database_host
}

output "database_master_secret_arn" {
  description = "Secret of the master user."
  value       = module.platform.database_master_secret_arn
}

output "helm_values" {
  description = "Values for the charts: terraform output -raw helm_values > values.yaml"
  value       = module.platform.helm_values
}
