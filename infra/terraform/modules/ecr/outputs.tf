output "registry" {
  description = "The registry's host; an image is REGISTRY/NAME/IMAGE:TAG."
  value       = split("/", aws_ecr_repository.this[var.images[0]].repository_url)[0]
}
