# Law of this file: the distribution reads entities/ of the bucket, and nothing else, and hands them
# to those who show a signature, unless it was said that everybody may read.

locals {
  cdn    = var.cdn == null ? {} : { this = var.cdn }
  signed = length(try(var.cdn.public_keys, [])) > 0
  keys   = { for key in try(var.cdn.public_keys, []) : key.name => key.pem }
}

resource "aws_cloudfront_origin_access_control" "cdn" {
  for_each = local.cdn

  name                              = var.name
  description                       = "Offramp: reads the entities of ${var.name}"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

resource "aws_cloudfront_public_key" "cdn" {
  for_each = local.keys

  # A prefix: a key that is replaced is in its group until the new one is.
  name_prefix = "${var.name}-${each.key}-"
  comment     = "Offramp: checks URLs of ${var.name}"
  encoded_key = "${trimspace(each.value)}\n"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_key_group" "cdn" {
  for_each = local.signed ? local.cdn : {}

  name  = var.name
  items = [for name in sort(keys(local.keys)) : aws_cloudfront_public_key.cdn[name].id]
}

# Content never changes under its name, so it is kept for as long as it may be. The signature is no
# part of what is cached: CloudFront checks it, and takes it off.
resource "aws_cloudfront_cache_policy" "cdn" {
  for_each = local.cdn

  name        = "${var.name}-entities"
  comment     = "Offramp: entities, which never change"
  min_ttl     = 0
  default_ttl = 31536000
  max_ttl     = 31536000

  parameters_in_cache_key_and_forwarded_to_origin {
    enable_accept_encoding_brotli = false
    enable_accept_encoding_gzip   = false

    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

resource "aws_cloudfront_distribution" "cdn" {
  for_each = local.cdn

  comment         = "Offramp: content of ${var.name}"
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = each.value.price_class
  aliases         = try(each.value.domain.names, [])
  web_acl_id      = each.value.web_acl_arn
  tags            = var.tags

  origin {
    origin_id                = "store"
    domain_name              = aws_s3_bucket.store.bucket_regional_domain_name
    origin_path              = var.prefix == "" ? "" : "/${var.prefix}"
    origin_access_control_id = aws_cloudfront_origin_access_control.cdn[each.key].id
  }

  # There must be one, for all paths. What is not below entities/ the bucket refuses to it.
  default_cache_behavior {
    target_origin_id       = "store"
    viewer_protocol_policy = "https-only"
    allowed_methods        = ["GET", "HEAD"]
    cached_methods         = ["GET", "HEAD"]
    compress               = false
    cache_policy_id        = aws_cloudfront_cache_policy.cdn[each.key].id
    trusted_key_groups     = [for group in aws_cloudfront_key_group.cdn : group.id]
  }

  # A bundle is asked for as soon as it is written; that it was not there before is not remembered.
  dynamic "custom_error_response" {
    for_each = [403, 404]

    content {
      error_code            = custom_error_response.value
      error_caching_min_ttl = 0
    }
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = each.value.domain == null
    acm_certificate_arn            = try(each.value.domain.certificate_arn, null)
    minimum_protocol_version       = each.value.domain == null ? null : "TLSv1.2_2021"
    ssl_support_method             = each.value.domain == null ? null : "sni-only"
  }

  dynamic "logging_config" {
    for_each = aws_s3_bucket.logs

    content {
      bucket = logging_config.value.bucket_domain_name
      prefix = "cdn/"
    }
  }

  # CloudFront writes logs by an ACL, which a bucket takes only after this.
  depends_on = [aws_s3_bucket_ownership_controls.logs]
}
