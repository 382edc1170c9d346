output "bucket" {
  description = "Name of the store's bucket."
  value       = aws_s3_bucket.store.id
}

output "arn" {
  description = "ARN of the store's bucket."
  value       = aws_s3_bucket.store.arn
}
