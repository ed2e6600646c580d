# Law of this file: the settings that come out, for tests/terraform, which hands them to Offramp.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_resource "aws_cloudfront_distribution" {
    defaults = {
      arn         = "arn:aws:cloudfront::111122223333:distribution/EXAMPLE"
      domain_name = "d111111abcdef8.cloudfront.net"
    }
  }

  mock_resource "aws_cloudfront_public_key" {
    defaults = { id = "K2JCJMDEHXQW5F" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/offramp" }
  }

  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:loadbalancer/app/offramp/1" }
  }

  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/offr-/1" }
  }

  mock_resource "aws_lb_listener" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener/app/offramp/1/2" }
  }

  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:111122223333:task-definition/offramp:1" }
  }
}

override_data {
  target = module.service.data.aws_subnet.public[0]
  values = { cidr_block = "10.0.0.0/24" }
}

override_data {
  target = module.service.data.aws_subnet.public[1]
  values = { cidr_block = "10.0.1.0/24" }
}

override_resource {
  target = module.store.aws_s3_bucket.store
  values = {
    id     = "example-offramp"
    arn    = "arn:aws:s3:::example-offramp"
    region = "eu-central-1"
  }
}

variables {
  region             = "eu-central-1"
  bucket             = "example-offramp"
  vpc_id             = "vpc-1"
  public_subnet_ids  = ["subnet-1", "subnet-2"]
  private_subnet_ids = ["subnet-3", "subnet-4"]
  client_cidrs       = ["10.0.0.0/8"]
  domain             = "git.example.org"
  certificate_arn    = "arn:aws:acm:eu-central-1:111122223333:certificate/1234abcd"
  image              = "registry.example.org/offramp:0.1.0"
  forge_url          = "https://forge.example.org"

  keys = [{
    name               = "2026-1"
    public_pem         = "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"
    private_secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:cdn"
  }]

  url_key_secret_arn     = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:url-key"
  forge_token_secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:forge"
}

run "settings" {
  assert {
    condition     = output.cdn_url == "https://d111111abcdef8.cloudfront.net"
    error_message = "Clients are sent elsewhere."
  }
}
