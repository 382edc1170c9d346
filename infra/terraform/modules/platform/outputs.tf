output "cluster_name" {
  description = "Name of the EKS cluster, for `aws eks update-kubeconfig`."
  value       = module.eks.cluster_name
}

output "bucket" {
  description = "Bucket of the object store."
  value       = module.s3.bucket
}

output "database_host" {
  description = "Address of PostgreSQL."
  value       = module.rds.host
}

output "database_master_secret_arn" {
  description = "Secret of the master user, for making the other users once."
  value       = module.rds.master_secret_arn
}

output "helm_values" {
  description = "What the charts must know of AWS, as a values file."
  value = yamlencode({
    aws   = { region = local.region, account = data.aws_caller_identity.current.account_id, cluster = module.eks.cluster_name }
    image = { registry = "${data.aws_caller_identity.current.account_id}.dkr.ecr.${local.region}.amazonaws.com" } # made by bootstrap
    store = "s3://${module.s3.bucket}"
    database = {
      host      = module.rds.host
      port      = 5432
      secretArn = module.secrets.arns["flywheel-database"]
    }
    cache             = { enabled = length(module.cache) > 0, secretArn = one(module.cache[*].secret_arn) }
    secrets           = module.secrets.arns
    serviceAccounts   = { for account, arn in module.iam.role_arns : account => { annotations = { "eks.amazonaws.com/role-arn" = arn } } }
    clusterAutoscaler = { roleArn = module.eks.autoscaler_role_arn }
  })
}
