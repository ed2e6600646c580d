# Law of this file: the settings that come out, for tests/terraform, which hands them to Offramp.

mock_provider "aws" {
  mock_resource "aws_cloudfront_distribution" {
    defaults = {
      arn         = "arn:aws:cloudfront::111122223333:distribution/EXAMPLE"
      domain_name = "d111111abcdef8.cloudfront.net"
    }
  }

  mock_resource "aws_cloudfront_public_key" {
    defaults = { id = "K2JCJMDEHXQW5F" }
  }
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
  region      = "eu-central-1"
  name        = "example-offramp"
  public_keys = [{ name = "2026-1", pem = "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n" }]
}

run "settings" {
  assert {
    condition     = output.signing_keys == [{ name = "2026-1", id = "K2JCJMDEHXQW5F", file = "/etc/offramp/cloudfront-2026-1.pem" }]
    error_message = "Offramp would look for its keys elsewhere."
  }
}
