# What differs from one to the next. The modules say what each may be.

variable "region" {
  type        = string
  description = "Region of the bucket and the service."

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Write a region, such as eu-central-1."
  }
}

variable "name" {
  type        = string
  default     = "offramp"
  description = "Name of the service."
}

variable "bucket" {
  type        = string
  description = "Name of the bucket."
}

variable "vpc_id" {
  type        = string
  description = "The VPC."
}

variable "public_subnet_ids" {
  type        = list(string)
  description = "Subnets of the load balancer."
}

variable "private_subnet_ids" {
  type        = list(string)
  description = "Subnets of the tasks."
}

variable "client_cidrs" {
  type        = list(string)
  description = "Networks whose clients may ask."
}

variable "domain" {
  type        = string
  description = "Host name of the service."
}

variable "certificate_arn" {
  type        = string
  description = "Its certificate."
}

variable "image" {
  type        = string
  description = "The container image."
}

variable "keys" {
  type        = list(object({ name = string, public_pem = string, private_secret_arn = string }))
  description = "Key pairs of the CDN: the public half, and the secret that holds the private one. The first one signs."
}

variable "url_key_secret_arn" {
  type        = string
  description = "Secret that holds secret.key."
}

variable "forge_url" {
  type        = string
  description = "The forge whose repositories are served, such as https://github.com."

  validation {
    condition     = startswith(var.forge_url, "https://")
    error_message = "Write a URL that begins with https://."
  }
}

variable "forge_user" {
  type        = string
  default     = "x-access-token"
  description = "User name that goes with the token: any at GitHub, oauth2 at GitLab."
}

variable "forge_token_secret_arn" {
  type        = string
  description = "Secret that holds a token which may read the repositories of the forge."
}
