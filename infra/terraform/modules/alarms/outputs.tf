output "topic_arn" {
  description = "Topic that receives every alarm."
  value       = aws_sns_topic.this.arn
}
