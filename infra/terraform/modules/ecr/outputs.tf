output "registry" {
  description = "What stands before each image's name: ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME."
  value       = trimsuffix(aws_ecr_repository.this[var.images[0]].repository_url, "/${var.images[0]}")
}

output "repository_arns" {
  description = "ARN of each repository, by image."
  value       = { for image, repository in aws_ecr_repository.this : image => repository.arn }
}
