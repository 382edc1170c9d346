output "identifier" {
  description = "Name of the instance."
  value       = aws_db_instance.this.identifier
}

output "host" {
  description = "Address of the instance."
  value       = aws_db_instance.this.address
}

output "master_secret_arn" {
  description = "Secret with the master user's name and password, made and rotated by RDS."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}
