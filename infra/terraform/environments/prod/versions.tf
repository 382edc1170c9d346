terraform {
  required_version = ">= 1.11" # S3 locks without DynamoDB, and values that are never stored
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  backend "s3" {} # terraform init -backend-config=backend.hcl
}
