# Law of this file: what is said of the store holds in what Terraform would make of it.

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
  target = aws_s3_bucket.store
  values = {
    id                          = "example-offramp"
    arn                         = "arn:aws:s3:::example-offramp"
    region                      = "eu-central-1"
    bucket_regional_domain_name = "example-offramp.s3.eu-central-1.amazonaws.com"
  }
}

override_resource {
  target = aws_s3_bucket.logs
  values = {
    id                 = "example-offramp-access-logs"
    arn                = "arn:aws:s3:::example-offramp-access-logs"
    bucket_domain_name = "example-offramp-access-logs.s3.amazonaws.com"
  }
}

variables {
  name = "example-offramp"
}

run "a_bucket_alone_is_private" {
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.store.block_public_acls,
      aws_s3_bucket_public_access_block.store.block_public_policy,
      aws_s3_bucket_public_access_block.store.ignore_public_acls,
      aws_s3_bucket_public_access_block.store.restrict_public_buckets,
    ])
    error_message = "Public access is not blocked."
  }

  assert {
    condition     = [for statement in jsondecode(aws_s3_bucket_policy.store.policy).Statement : statement.Effect] == ["Deny"]
    error_message = "Somebody is let in, or not kept from asking without TLS."
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.store.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"
    error_message = "Requests without TLS are not refused."
  }

  assert {
    condition     = aws_s3_bucket_versioning.store.versioning_configuration[0].status == "Disabled"
    error_message = "What is purged would stay as an old version."
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.store.rule[*]).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "Content is not encrypted."
  }

  assert {
    condition     = length(aws_cloudfront_distribution.cdn) + length(aws_s3_bucket.logs) == 0
    error_message = "There is a distribution, or logs, that nobody asked for."
  }
}

run "nothing_is_deleted_by_its_age" {
  assert {
    condition = alltrue([
      for rule in aws_s3_bucket_lifecycle_configuration.store.rule :
      length(rule.expiration) == 0 && rule.abort_incomplete_multipart_upload[0].days_after_initiation == 1
    ])
    error_message = "A rule deletes objects, or abandoned uploads stay."
  }
}

run "settings_without_a_cdn_name_no_targets" {
  assert {
    condition     = output.settings_toml == "[store]\ntype = \"s3\"\nbucket = \"example-offramp\"\nregion = \"eu-central-1\"\n"
    error_message = "The settings are others."
  }
}

run "offramp_may_do_what_it_does" {
  variables {
    prefix      = "git"
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
  }

  assert {
    condition = [for statement in jsondecode(output.access_policy).Statement : statement.Resource] == [
      "arn:aws:s3:::example-offramp",
      ["arn:aws:s3:::example-offramp/git/entities/*", "arn:aws:s3:::example-offramp/git/documents/*"],
      "arn:aws:kms:eu-central-1:111122223333:key/1234abcd",
    ]
    error_message = "The policy opens other things."
  }

  assert {
    condition     = jsondecode(output.access_policy).Statement[1].Action == ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    error_message = "The policy allows other actions."
  }

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.store.rule[*]).bucket_key_enabled
    error_message = "Each object costs a request to KMS."
  }
}

run "a_cdn_reads_entities_and_nothing_else" {
  variables {
    prefix   = "git"
    log_days = 30
    cdn = {
      public_keys = [
        { name = "2026-2", pem = "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----" },
        { name = "2026-1", pem = "-----BEGIN PUBLIC KEY-----\nBB==\n-----END PUBLIC KEY-----\n" },
      ]
    }
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.store.policy).Statement[1].Resource == "arn:aws:s3:::example-offramp/git/entities/*"
    error_message = "The distribution reads other things than entities/."
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.store.policy).Statement[1].Condition.StringEquals["AWS:SourceArn"] == "arn:aws:cloudfront::111122223333:distribution/EXAMPLE"
    error_message = "Distributions of others are let in."
  }

  assert {
    condition     = length(aws_cloudfront_distribution.cdn["this"].default_cache_behavior[0].trusted_key_groups) == 1
    error_message = "The distribution demands no signature."
  }

  assert {
    condition     = aws_cloudfront_distribution.cdn["this"].default_cache_behavior[0].viewer_protocol_policy == "https-only"
    error_message = "Signed URLs could be read on the way."
  }

  assert {
    condition     = length(aws_cloudfront_distribution.cdn["this"].ordered_cache_behavior) == 0
    error_message = "A path of its own may have no key group."
  }

  assert {
    condition     = one(aws_cloudfront_distribution.cdn["this"].origin).origin_path == "/git"
    error_message = "URLs do not lead to the prefix."
  }

  assert {
    condition     = alltrue([for key in aws_cloudfront_public_key.cdn : endswith(key.encoded_key, "-----END PUBLIC KEY-----\n")])
    error_message = "CloudFront gives a key back with a line's end, and each plan would find a difference."
  }

  assert {
    condition     = [for key in output.signing_keys : key.file] == ["/etc/offramp/cloudfront-2026-2.pem", "/etc/offramp/cloudfront-2026-1.pem"]
    error_message = "The first key does not sign."
  }

  assert {
    condition     = one(aws_s3_bucket_lifecycle_configuration.logs["this"].rule[*]).expiration[0].days == 30
    error_message = "Logs, which hold signed URLs, are not forgotten."
  }
}

run "a_cdn_for_everybody_is_asked_for_by_name" {
  variables {
    cdn = {
      unsigned = true
      domain = {
        names           = ["cdn.example.org"]
        certificate_arn = "arn:aws:acm:us-east-1:111122223333:certificate/1234abcd"
      }
    }
  }

  assert {
    condition     = length(aws_cloudfront_key_group.cdn) == 0 && strcontains(output.settings_toml, "type = \"http\"\nbase_url = \"https://cdn.example.org\"\n\n")
    error_message = "The settings are others."
  }

  assert {
    condition     = aws_cloudfront_distribution.cdn["this"].viewer_certificate[0].minimum_protocol_version == "TLSv1.2_2021"
    error_message = "Old TLS is spoken."
  }
}

# --- what is refused -----------------------------------------------------------------------

run "a_name_with_a_dot" {
  command         = plan
  expect_failures = [var.name]

  variables {
    name = "example.offramp"
  }
}

run "a_prefix_with_a_slash_at_its_end" {
  command         = plan
  expect_failures = [var.prefix]

  variables {
    prefix = "git/"
  }
}

run "a_cdn_without_keys" {
  command         = plan
  expect_failures = [var.cdn]

  variables {
    cdn = {}
  }
}

run "a_private_key" {
  command         = plan
  expect_failures = [var.cdn]

  variables {
    cdn = { public_keys = [{ name = "a", pem = "-----BEGIN PRIVATE KEY-----" }] }
  }
}

run "two_keys_of_one_name" {
  command         = plan
  expect_failures = [var.cdn]

  variables {
    cdn = {
      public_keys = [
        { name = "a", pem = "-----BEGIN PUBLIC KEY-----\nAA==\n" },
        { name = "a", pem = "-----BEGIN PUBLIC KEY-----\nBB==\n" },
      ]
    }
  }
}

run "a_certificate_of_another_region" {
  command         = plan
  expect_failures = [var.cdn]

  variables {
    cdn = {
      unsigned = true
      domain = {
        names           = ["cdn.example.org"]
        certificate_arn = "arn:aws:acm:eu-central-1:111122223333:certificate/1234abcd"
      }
    }
  }
}

run "an_alias_of_a_kms_key" {
  command         = plan
  expect_failures = [var.kms_key_arn]

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:alias/a"
  }
}
