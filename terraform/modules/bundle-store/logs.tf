# Law of this file: who read what is written down in a bucket of its own, which nobody reads but the
# account, and is forgotten in time.

locals {
  logs = var.log_days == 0 ? {} : { this = var.log_days }
}

resource "aws_s3_bucket" "logs" {
  for_each = local.logs

  bucket        = "${var.name}-access-logs"
  force_destroy = var.force_destroy
  tags          = var.tags
}

resource "aws_s3_bucket_public_access_block" "logs" {
  for_each = local.logs

  bucket = aws_s3_bucket.logs[each.key].id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# Not enforced: the distribution is let in by an ACL.
resource "aws_s3_bucket_ownership_controls" "logs" {
  for_each = local.logs

  bucket = aws_s3_bucket.logs[each.key].id

  rule {
    object_ownership = "BucketOwnerPreferred"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  for_each = local.logs

  bucket = aws_s3_bucket.logs[each.key].id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  for_each = local.logs

  bucket = aws_s3_bucket.logs[each.key].id

  rule {
    id     = "old-logs"
    status = "Enabled"

    filter {}

    expiration {
      days = each.value
    }
  }
}

resource "aws_s3_bucket_policy" "logs" {
  for_each = local.logs

  bucket = aws_s3_bucket.logs[each.key].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.logs[each.key].arn, "${aws_s3_bucket.logs[each.key].arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "S3WritesLogs"
        Effect    = "Allow"
        Principal = { Service = "logging.s3.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = "${aws_s3_bucket.logs[each.key].arn}/store/*"
        Condition = { ArnLike = { "aws:SourceArn" = aws_s3_bucket.store.arn } }
      },
    ]
  })

  depends_on = [aws_s3_bucket_public_access_block.logs]
}

resource "aws_s3_bucket_logging" "store" {
  for_each = local.logs

  bucket        = aws_s3_bucket.store.id
  target_bucket = aws_s3_bucket.logs[each.key].id
  target_prefix = "store/"

  depends_on = [aws_s3_bucket_policy.logs]
}
