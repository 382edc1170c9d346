output "secret_arn" {
  description = "Secret with the cache's address and password, key `url`."
  value       = aws_secretsmanager_secret.url.arn
}
