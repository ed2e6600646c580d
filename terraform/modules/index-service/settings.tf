# Law of this file: the settings of a task, as Offramp reads them, and what it writes them from.

locals {
  port    = 8417
  admin   = 9417  # which the load balancer does not reach
  user    = 10001 # as in the Dockerfile
  data    = "/data"
  runtime = "/run/offramp"
  root    = "/repositories"

  toml = templatefile("${path.module}/offramp.toml.tftpl", {
    root       = var.repositories == null ? null : local.root
    data       = local.data
    listen     = "0.0.0.0:${local.port}"
    public_url = "https://${var.domain}"
    workers    = var.workers
    admin      = "0.0.0.0:${local.admin}"
    store      = trimspace(var.store_toml)
    proxies    = distinct(data.aws_subnet.public[*].cidr_block)
    answers    = "${floor(var.storage_gib / 2)}GiB"
    mirrors    = "${floor(var.storage_gib / 3)}GiB"
    settings   = trimspace(var.settings)
  })

  # The files that a task finds, by the variable of which each is written before the server begins.
  files = merge(
    { for index, name in sort(keys(var.files)) : "FILE_${index}" => { path = "${local.runtime}/${name}", secret = var.files[name] } },
    var.url_key_secret_arn == null ? {} : { URL_KEY = { path = "${local.data}/secret.key", secret = var.url_key_secret_arn } },
  )

  secrets = distinct([for file in values(local.files) : file.secret])
}

data "aws_region" "current" {}

# Where the load balancer is, and no client: whoever is among the proxies may say for whom it asks.
# By number, not by id: the id of a subnet that is made in the same run is not known before.
data "aws_subnet" "public" {
  count = length(var.public_subnet_ids)

  id = var.public_subnet_ids[count.index]
}
