# Everything: a bucket, a CDN that demands signed URLs, and Offramp in front of a forge, in a VPC
# that there is already. Keys and tokens are in Secrets Manager before; docs/deploy-aws.md has the
# commands.

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

  name     = var.bucket
  log_days = 30
  cdn = {
    key_folder  = "/run/offramp" # where the service writes them
    public_keys = [for key in var.keys : { name = key.name, pem = key.public_pem }]
  }
}

module "service" {
  source = "../../modules/index-service"

  name               = var.name
  vpc_id             = var.vpc_id
  public_subnet_ids  = var.public_subnet_ids
  private_subnet_ids = var.private_subnet_ids
  client_cidrs       = var.client_cidrs
  domain             = var.domain
  certificate_arn    = var.certificate_arn
  image              = var.image

  # A forge at another port is let through, too.
  egress_ports = distinct([443, tonumber(try(regex("^https://[^/]+:([0-9]+)", var.forge_url)[0], "443"))])

  store_toml         = module.store.settings_toml
  store_policy       = module.store.access_policy
  url_key_secret_arn = var.url_key_secret_arn

  files = merge(
    { for key in var.keys : "cloudfront-${key.name}.pem" => key.private_secret_arn },
    { "forge.token" = var.forge_token_secret_arn },
  )

  settings = <<-TOML
    [[upstreams]]
    prefix = "/forge/"
    url = ${jsonencode(var.forge_url)}

    [upstreams.credential]
    username = ${jsonencode(var.forge_user)}
    file = "/run/offramp/forge.token"

    [index]
    enabled = true
  TOML
}
