output "role_arns" {
  description = "Role of each kind of job: images, plan, turn, and apply-<environment>."
  value       = { for job, role in aws_iam_role.this : job => role.arn }
}

output "boundary_arn" {
  description = "Upper bound that every role made by apply must carry."
  value       = aws_iam_policy.boundary.arn
}
