output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "One private subnet a zone."
  value       = [for zone in local.zones : aws_subnet.private[zone].id]
}
