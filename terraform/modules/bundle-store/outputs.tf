# Law of this file: what others need of the store. No secret is among it: private keys are never
# seen here.

output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.store.id
}

output "bucket_arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.store.arn
}

output "region" {
  description = "Region of the bucket."
  value       = aws_s3_bucket.store.region
}

output "cdn_url" {
  description = "URL of the distribution, below which entities/ is read; null without one."
  value       = local.cdn_url
}

output "signing_keys" {
  description = "For each public key, the first of which signs: its id at CloudFront, and the file in which Offramp looks for its private half."
  value       = local.signing_keys
}

output "access_policy" {
  description = "IAM policy (JSON) of who runs Offramp: exactly what it asks S3 for."
  value = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          # For the whole bucket: by it S3 says that something is not there, where it would refuse
          # to answer, and such a question has no prefix that a condition could look at.
          Sid      = "List"
          Effect   = "Allow"
          Action   = "s3:ListBucket"
          Resource = aws_s3_bucket.store.arn
        },
        {
          Sid      = "ReadAndWrite"
          Effect   = "Allow"
          Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
          Resource = [local.entities, local.documents]
        },
      ],
      [
        for key in var.kms_key_arn == null ? [] : [var.kms_key_arn] : {
          Sid      = "Encrypt"
          Effect   = "Allow"
          Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource = key
        }
      ],
    )
  })
}

output "settings_toml" {
  description = "The part of offramp.toml that is about store and targets."
  value       = local.toml
}
