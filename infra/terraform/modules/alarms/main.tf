# What AWS itself must tell: money, the database, the control plane. The flywheel's own alerts are Prometheus', in infra/monitoring.
data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  topic   = "${var.name}-alarms"
}

resource "aws_sns_topic" "this" {
  name              = local.topic
  kms_master_key_id = var.kms_key_arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"] }
      Action    = "sns:Publish"
      Resource  = "arn:${data.aws_partition.current.partition}:sns:${data.aws_region.current.name}:${local.account}:${local.topic}"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_sns_topic_subscription" "email" {
  for_each  = toset(var.emails)
  topic_arn = aws_sns_topic.this.arn
  protocol  = "email"
  endpoint  = each.value
}

# The whole account's: a budget filtered by tag shows nothing until the tag is activated for billing.
resource "aws_budgets_budget" "monthly" {
  name         = "${var.name}-monthly"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.monthly_budget)
  limit_unit   = "USD"

  dynamic "notification" {
    for_each = [["ACTUAL", 50], ["ACTUAL", 80], ["ACTUAL", 100], ["FORECASTED", 100]]
    content {
      notification_type         = notification.value[0]
      threshold                 = notification.value[1]
      threshold_type            = "PERCENTAGE"
      comparison_operator       = "GREATER_THAN"
      subscriber_sns_topic_arns = [aws_sns_topic.this.arn]
    }
  }
}

locals {
  gib = 1024 * 1024 * 1024
  alarms = {
    database-cpu = {
      about     = "The database has been over 80 % CPU for 15 minutes: look at Performance Insights, then at the instance class"
      namespace = "AWS/RDS", metric = "CPUUtilization", statistic = "Average", above = true, threshold = 80, minutes = 15
    }
    database-storage = {
      about     = "The database has under 10 GiB left: it grows by itself up to max_storage_gib, so that limit is near"
      namespace = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum", above = false, threshold = 10 * local.gib, minutes = 15
    }
    database-memory = {
      about     = "The database has had under 256 MiB of memory for 15 minutes: too many connections, or too small a class"
      namespace = "AWS/RDS", metric = "FreeableMemory", statistic = "Average", above = false, threshold = local.gib / 4, minutes = 15
    }
    cluster-errors = {
      about     = "The Kubernetes API has answered over 50 requests in 5 minutes with a 5xx, three times in a row"
      namespace = "AWS/EKS", metric = "apiserver_request_total_5XX", statistic = "Sum", above = true, threshold = 50, minutes = 15
    }
    cluster-pending = {
      about     = "Pods have found no node for 30 minutes: no quota for GPU instances, no spot capacity, or a node group at its maximum"
      namespace = "AWS/EKS", metric = "scheduler_pending_pods_UNSCHEDULABLE", statistic = "Minimum", above = true, threshold = 0, minutes = 30
    }
    cluster-store = {
      about     = "The control plane's database is over 6 of its 8 GiB: something leaves objects behind"
      namespace = "AWS/EKS", metric = "apiserver_storage_size_bytes", statistic = "Maximum", above = true, threshold = 6 * local.gib, minutes = 15
    }
  }
  dimensions = { "AWS/RDS" = { DBInstanceIdentifier = var.database }, "AWS/EKS" = { ClusterName = var.cluster } }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.about
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = local.dimensions[each.value.namespace]
  statistic           = each.value.statistic
  comparison_operator = each.value.above ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value.threshold
  period              = 300
  evaluation_periods  = each.value.minutes / 5
  treat_missing_data  = each.value.namespace == "AWS/RDS" ? "breaching" : "notBreaching" # a database that says nothing is down
  alarm_actions       = [aws_sns_topic.this.arn]
  ok_actions          = [aws_sns_topic.this.arn]
}
