# What differs from one to the next.

variable "region" {
  type        = string
  description = "Region of the bucket."

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Write a region, such as eu-central-1."
  }
}

variable "name" {
  type        = string
  description = "Name of the bucket; the module says what it may be."
}

variable "public_keys" {
  type        = list(object({ name = string, pem = string }))
  description = "Public keys that the CDN believes; the first one signs."
}
