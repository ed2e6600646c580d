# A store for an Offramp that runs elsewhere: a private bucket, and a CDN that demands signed URLs.
# `terraform output -raw settings_toml` is the part of its settings that goes with them.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.70"
    }
  }
}

provider "aws" {
  region = var.region
}

module "store" {
  source = "../../modules/bundle-store"

  name     = var.name
  prefix   = "git"
  log_days = 30
  cdn      = { public_keys = var.public_keys }
}
