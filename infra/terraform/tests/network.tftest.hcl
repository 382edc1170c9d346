# Run by `terraform test` here, in infra/terraform: no account, no network.
mock_provider "aws" {
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_caller_identity" { defaults = { account_id = "111122223333" } }
}

variables {
  name        = "flywheel-test"
  region      = "us-east-1"
  kms_key_arn = "arn:aws:kms:us-east-1:111122223333:key/test"
}

run "one_nat_gateway" {
  command = plan
  module { source = "./modules/network" }
  variables { nat_per_zone = false }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_subnet.private) == 3 && length(aws_subnet.public) == 3
    error_message = "Three zones share one NAT gateway."
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.public : subnet.map_public_ip_on_launch != true])
    error_message = "Nothing gets a public address by itself."
  }
  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL" && aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway"
    error_message = "All traffic is logged, and S3 is reached without the NAT gateway."
  }
  assert {
    condition = [for statement in jsondecode(aws_vpc_endpoint.s3.policy).Statement : try(statement.Condition.StringEquals["aws:PrincipalAccount"], statement.Resource)] == [
    "111122223333", "arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*"]
    error_message = "The endpoint carries this account's identities and ECR's layers only."
  }
}

run "a_nat_gateway_a_zone" {
  command = plan
  module { source = "./modules/network" }
  variables { nat_per_zone = true }
  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "Each zone has its own NAT gateway."
  }
}

run "two_zones_are_refused" {
  command = plan
  module { source = "./modules/network" }
  variables {
    nat_per_zone = false
    zones        = ["a", "b"]
  }
  expect_failures = [var.zones]
}
