# Nothing is applied from here: this is the root that `terraform test` needs to run tests/. Apply bootstrap/ and environments/.
terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}
