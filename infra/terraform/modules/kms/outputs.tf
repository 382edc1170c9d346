output "arn" {
  description = "ARN of the key, known once its alias is there."
  value       = aws_kms_alias.this.target_key_arn
}
