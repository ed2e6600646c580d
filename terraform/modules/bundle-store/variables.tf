# Law of this file: every input has a type, a description and, where a wrong one would be found late
# or by nobody, a validation that says what to write.

variable "name" {
  type        = string
  description = "Name of the bucket, and beginning of the names of what stands around it."

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,48}[a-z0-9]$", var.name))
    error_message = "Write 3 to 50 of a-z, 0-9 and -. A dot would break TLS, which is checked against the bucket's host name; longer names leave no room for that of the log bucket."
  }
}

variable "prefix" {
  type        = string
  default     = ""
  description = "Path in the bucket below which everything lies; empty for its root."

  validation {
    condition     = var.prefix == "" || can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.prefix))
    error_message = "Write names with one slash between, such as git or vcs/git, without a slash at the beginning or the end."
  }
}

variable "kms_key_arn" {
  type        = string
  default     = null
  description = "ARN of the KMS key that encrypts content; by default S3's own keys do (SSE-S3). With a CDN, the key's policy must let cloudfront.amazonaws.com decrypt."

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "Write the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID; an alias would follow to another key."
  }
}

variable "force_destroy" {
  type        = bool
  default     = false
  description = "Let terraform destroy delete a bucket that still holds content. All of it can be made again from the repositories."
}

variable "cdn" {
  type = object({
    public_keys = optional(list(object({ name = string, pem = string })), [])
    unsigned    = optional(bool, false)
    key_folder  = optional(string, "/etc/offramp")
    price_class = optional(string, "PriceClass_100")
    domain      = optional(object({ names = list(string), certificate_arn = string }))
    web_acl_arn = optional(string)
  })
  default     = null
  description = <<-TEXT
    A CloudFront distribution in front of the bucket; by default there is none.

    public_keys: whose private halves sign URLs, in PEM. The first one signs, all are believed: put
    a new key last, then first, then remove the old one. A key keeps its name, and a new one gets a
    new name.
    unsigned: in place of keys: whoever has a URL may read. Only for what everybody may read.
    key_folder: where the private keys lie on the machines that sign, as cloudfront-NAME.pem.
    price_class: PriceClass_100, PriceClass_200 or PriceClass_All.
    domain: host names of your own, and their certificate, which must be in us-east-1.
    web_acl_arn: a WAF that stands before the distribution.
  TEXT

  validation {
    condition     = var.cdn == null || (try(length(var.cdn.public_keys), 0) > 0) != try(var.cdn.unsigned, false)
    error_message = "Give cdn either public_keys, so that URLs must be signed, or unsigned = true, if everybody may read all that is served."
  }

  validation {
    condition     = alltrue([for key in try(var.cdn.public_keys, []) : can(regex("^[a-z0-9][a-z0-9-]{0,39}$", key.name))])
    error_message = "The name of a key is at most 40 of a-z, 0-9 and -, such as 2026-1."
  }

  validation {
    condition     = length(distinct([for key in try(var.cdn.public_keys, []) : key.name])) == length(try(var.cdn.public_keys, []))
    error_message = "Two keys of cdn.public_keys have the same name; give each its own."
  }

  validation {
    condition     = alltrue([for key in try(var.cdn.public_keys, []) : startswith(key.pem, "-----BEGIN PUBLIC KEY-----")])
    error_message = "A key of cdn.public_keys is no public key in PEM; write what openssl pkey -pubout prints. A private key has no place here: it would lie in the state."
  }

  validation {
    condition     = var.cdn == null || contains(["PriceClass_100", "PriceClass_200", "PriceClass_All"], try(var.cdn.price_class, ""))
    error_message = "cdn.price_class is PriceClass_100, PriceClass_200 or PriceClass_All."
  }

  validation {
    condition     = try(var.cdn.domain, null) == null || can(regex("^arn:[a-z-]+:acm:us-east-1:", var.cdn.domain.certificate_arn))
    error_message = "CloudFront takes certificates of us-east-1 alone; write the ARN of one."
  }

  validation {
    condition     = try(var.cdn.domain, null) == null || try(length(var.cdn.domain.names), 0) > 0
    error_message = "cdn.domain has no names; write at least one, or leave domain out."
  }

  validation {
    condition     = var.cdn == null || can(regex("^/([A-Za-z0-9._-]+/)*[A-Za-z0-9._-]+$", try(var.cdn.key_folder, "")))
    error_message = "cdn.key_folder is an absolute path without a slash at its end, such as /etc/offramp."
  }
}

variable "log_days" {
  type        = number
  default     = 0
  description = "Days for which the logs of the bucket and of the distribution are kept, in a bucket of their own; 0: there are none. Logs hold signed URLs, which are keys until they end."

  validation {
    condition     = var.log_days >= 0 && var.log_days <= 3650 && floor(var.log_days) == var.log_days
    error_message = "Write whole days from 0 (no logs) to 3650."
  }
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of everything that can have some."
}
