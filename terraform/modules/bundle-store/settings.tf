# Law of this file: the settings that go with the store, as Offramp reads them.

locals {
  cdn_url = one([
    for distribution in aws_cloudfront_distribution.cdn :
    "https://${try(var.cdn.domain.names[0], distribution.domain_name)}"
  ])

  signing_keys = [
    for key in try(var.cdn.public_keys, []) : {
      name = key.name
      id   = aws_cloudfront_public_key.cdn[key.name].id
      file = "${var.cdn.key_folder}/cloudfront-${key.name}.pem"
    }
  ]

  toml = templatefile("${path.module}/offramp.toml.tftpl", {
    bucket  = aws_s3_bucket.store.id
    prefix  = var.prefix
    region  = aws_s3_bucket.store.region
    cdn_url = local.cdn_url
    keys    = local.signing_keys
  })
}
