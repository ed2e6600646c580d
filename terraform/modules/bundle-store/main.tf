# Law of this file: the bucket is private. Only Offramp writes and deletes; nobody reads documents/
# but Offramp.

locals {
  root = var.prefix == "" ? "" : "${var.prefix}/"

  # entities/ is all that clients may ever read: documents/ name every repository and all content.
  entities  = "${aws_s3_bucket.store.arn}/${local.root}entities/*"
  documents = "${aws_s3_bucket.store.arn}/${local.root}documents/*"
}

resource "aws_s3_bucket" "store" {
  bucket        = var.name
  force_destroy = var.force_destroy
  tags          = var.tags
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket = aws_s3_bucket.store.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    # Without it each object would cost a request to KMS.
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

# Off: `offramp purge` takes content back, and an old version would still be there.
resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id

  versioning_configuration {
    status = "Disabled"
  }
}

# No rule deletes by age: a bundle that is in use may be old, and a URL must never outlive what it
# names. Offramp deletes what it no longer names (retention.keep). What it cannot see is an upload
# of a machine that lost its power.
resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    id     = "abandoned-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  depends_on = [aws_s3_bucket_versioning.store]
}

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid       = "OnlyTls"
          Effect    = "Deny"
          Principal = "*"
          Action    = "s3:*"
          Resource  = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]
          Condition = { Bool = { "aws:SecureTransport" = "false" } }
        },
      ],
      [
        for distribution in aws_cloudfront_distribution.cdn : {
          Sid       = "CdnReadsEntities"
          Effect    = "Allow"
          Principal = { Service = "cloudfront.amazonaws.com" }
          Action    = "s3:GetObject"
          Resource  = local.entities
          Condition = { StringEquals = { "AWS:SourceArn" = distribution.arn } }
        }
      ],
    )
  })

  # Both change what S3 makes of a policy, and S3 refuses two such changes at a time.
  depends_on = [aws_s3_bucket_public_access_block.store]
}
