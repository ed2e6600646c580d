# Law of this file: what this module needs. Variables that are validated against each other came
# with Terraform 1.9.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.70"
    }
  }
}
