output "cluster_name" {
  description = "Name of the cluster."
  value       = aws_eks_cluster.this.name
}

output "security_group_id" {
  description = "The security group of the control plane and of all nodes."
  value       = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

output "oidc_provider_arn" {
  description = "What trusts the cluster's service accounts."
  value       = aws_iam_openid_connect_provider.this.arn
}

output "oidc_issuer" {
  description = "The issuer, without https://."
  value       = local.issuer
}

output "autoscaler_role_arn" {
  description = "Role of kube-system's service account cluster-autoscaler."
  value       = aws_iam_role.system["autoscaler"].arn
}
