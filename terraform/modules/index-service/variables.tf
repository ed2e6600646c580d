# Law of this file: every input has a type, a description and, where a wrong one would be found late
# or by nobody, a validation that says what to write.

# --- where ---------------------------------------------------------------------------------

variable "name" {
  type        = string
  default     = "offramp"
  description = "Name of the service, and beginning of the names of what stands around it."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name))
    error_message = "Write 2 to 24 of a-z, 0-9 and -, beginning with a letter; a load balancer's name has no more room."
  }
}

variable "vpc_id" {
  type        = string
  description = "The VPC in which it runs."

  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "Write the id of a VPC, vpc-..."
  }
}

variable "public_subnet_ids" {
  type        = list(string)
  description = "Subnets of the load balancer, in two availability zones at least. Addresses in them are those of proxies, which are believed when they say for whom they ask: have no machine in them that is a client of the service."

  validation {
    condition     = length(distinct(var.public_subnet_ids)) >= 2 && alltrue([for id in var.public_subnet_ids : startswith(id, "subnet-")])
    error_message = "A load balancer needs two subnets, subnet-..., in different availability zones."
  }
}

variable "private_subnet_ids" {
  type        = list(string)
  description = "Subnets of the tasks, with a way out to upstreams and AWS (a NAT, and an S3 gateway endpoint, or every byte to S3 is paid at the NAT)."

  validation {
    condition     = length(var.private_subnet_ids) >= 1 && alltrue([for id in var.private_subnet_ids : startswith(id, "subnet-")])
    error_message = "Write at least one subnet, subnet-..."
  }
}

variable "internal" {
  type        = bool
  default     = false
  description = "The load balancer has private addresses only."
}

variable "client_cidrs" {
  type        = list(string)
  description = "Networks whose clients may ask. There is no default: where nobody is asked for a token, whoever reaches the service may read what it serves."

  validation {
    condition     = length(var.client_cidrs) > 0 && alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "Write IPv4 networks, such as 10.0.0.0/8, or 0.0.0.0/0 for everybody."
  }
}

variable "metrics_cidrs" {
  type        = list(string)
  default     = []
  description = "Networks of Prometheus and of operators. They reach the tasks at port 9417, past the load balancer: /-/metrics, the status page, and /-/api/. Whoever is in them sees the names of all repositories, and who asks for what."

  validation {
    condition     = alltrue([for cidr in var.metrics_cidrs : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "Write IPv4 networks, such as 10.0.0.0/16."
  }
}

variable "domain" {
  type        = string
  description = "Host name by which clients reach the service; point it at the load balancer."

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$", var.domain))
    error_message = "Write a host name in lower case, such as git.example.org, without https:// and path."
  }
}

variable "certificate_arn" {
  type        = string
  description = "ARN of the certificate for domain, in the region of the load balancer."

  validation {
    condition     = can(regex("^arn:[a-z-]+:(acm|iam):", var.certificate_arn))
    error_message = "Write the ARN of a certificate of ACM or IAM."
  }
}

# --- what is run ---------------------------------------------------------------------------

variable "image" {
  type        = string
  description = "The container image, by digest or by a tag that stays what it is."

  validation {
    condition     = can(regex("(@sha256:[0-9a-f]{64}|:[A-Za-z0-9._-]+)$", var.image)) && !endswith(var.image, ":latest")
    error_message = "Write the image with a digest or a tag other than latest: tasks that are started at different times would run different programs."
  }
}

variable "ecr_repository_arn" {
  type        = string
  default     = null
  description = "ARN of the ECR repository that holds the image, which tasks may then pull from; null if it comes from elsewhere."

  validation {
    condition     = var.ecr_repository_arn == null || can(regex("^arn:[a-z-]+:ecr:[a-z0-9-]+:[0-9]{12}:repository/.+$", var.ecr_repository_arn))
    error_message = "Write the ARN of a repository, arn:aws:ecr:REGION:ACCOUNT:repository/NAME."
  }
}

variable "architecture" {
  type        = string
  default     = "X86_64"
  description = "Processor of the tasks, which the image must be made for: X86_64 or ARM64."

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "Write X86_64 or ARM64."
  }
}

variable "cpu" {
  type        = number
  default     = 2048
  description = "Processor of a task, in 1024ths of one."

  validation {
    condition     = contains(keys(local.fargate), tostring(var.cpu))
    error_message = "Fargate has 512, 1024, 2048, 4096, 8192 and 16384."
  }
}

variable "memory" {
  type        = number
  default     = 8192
  description = "Memory of a task in MiB. git packs large repositories in memory."

  validation {
    # Of a cpu that there is not, its own validation tells.
    condition = alltrue([
      for size in try([local.fargate[var.cpu]], []) :
      var.memory >= size.least && var.memory <= size.most && var.memory % size.step == 0
    ])
    error_message = try(
      format("With cpu = %d Fargate has from %d to %d MiB, in steps of %d.", var.cpu, local.fargate[var.cpu].least, local.fargate[var.cpu].most, local.fargate[var.cpu].step),
      "There is no such cpu.",
    )
  }
}

variable "workers" {
  type        = number
  default     = 2
  description = "Server processes of a task; one for each processor."

  validation {
    condition     = var.workers >= 1 && var.workers <= 32 && floor(var.workers) == var.workers
    error_message = "Write 1 to 32."
  }
}

variable "tasks" {
  type        = object({ min = number, max = number })
  default     = { min = 2, max = 6 }
  description = "How many tasks there are at least and at most."

  validation {
    condition     = var.tasks.min >= 1 && var.tasks.max >= var.tasks.min && var.tasks.max <= 100
    error_message = "min is 1 or more, and max not less than min."
  }

  validation {
    condition     = var.cache != "efs" || var.tasks.max == 1
    error_message = "With cache = \"efs\" there can be one task: processes of several machines do not share a data directory. Write tasks = { min = 1, max = 1 }, or cache = \"ephemeral\"."
  }

  validation {
    condition     = var.tasks.max == 1 || var.url_key_secret_arn != null
    error_message = "Several tasks must sign URLs of the target self with the same key: give url_key_secret_arn."
  }
}

variable "scale_at" {
  type        = object({ cpu_percent = optional(number, 60), requests_per_minute = optional(number, 6000) })
  default     = {}
  description = "Tasks are added when one has more than this of processor time, or of requests."

  validation {
    condition     = var.scale_at.cpu_percent >= 10 && var.scale_at.cpu_percent <= 95 && var.scale_at.requests_per_minute >= 1
    error_message = "cpu_percent is from 10 to 95, requests_per_minute 1 or more."
  }
}

# --- what it serves ------------------------------------------------------------------------

variable "store_toml" {
  type        = string
  description = "The [store] and [[targets]] of offramp.toml: output settings_toml of the module bundle-store."

  validation {
    condition     = can(regex("(?m)^\\[store\\]$", var.store_toml))
    error_message = "There is no [store] in it; pass the output settings_toml of the module bundle-store."
  }
}

variable "store_policy" {
  type        = string
  description = "IAM policy (JSON) that opens the store: output access_policy of the module bundle-store."

  validation {
    condition     = can(jsondecode(var.store_policy).Statement)
    error_message = "This is no policy; pass the output access_policy of the module bundle-store."
  }
}

variable "settings" {
  type        = string
  default     = ""
  description = "More of offramp.toml: tables such as [[upstreams]], [access] and [index]. No passwords: give those in files."

  validation {
    condition     = length(regexall("(?m)^\\s*\\[+\\s*(admin|store|targets|cache|mirrors|regions|log)\\b", var.settings)) == 0
    error_message = "The tables admin, store, targets, cache, mirrors, regions and log are written by this module. What it does not set of them can be set by environment, such as OFFRAMP_LOG__LEVEL."
  }

  validation {
    condition     = length(regexall("(?m)^\\s*\"?stop_(time|delay)\"?\\s*=", var.settings)) == 0
    error_message = "A task is killed some time after it was told to stop, so this module must know how long it takes: write stop_seconds in place of limits.stop_time, and drain_seconds in place of limits.stop_delay."
  }

  validation {
    condition     = var.repositories != null || length(regexall("(?m)^\\s*\\[\\[\\s*upstreams\\s*\\]\\]", var.settings)) > 0
    error_message = "Nothing would be served: give repositories, or write [[upstreams]] in settings."
  }
}

variable "environment" {
  type        = map(string)
  default     = {}
  description = "Settings as OFFRAMP_* variables, which win over the file."

  validation {
    condition = alltrue([
      for name in keys(var.environment) :
      startswith(name, "OFFRAMP_") && !can(regex("(?i)^OFFRAMP_(CONFIG|DATA|LISTEN|ADMIN(__.*)?|LIMITS(__STOP_.*)?)$", name))
    ])
    error_message = "Write variables of Offramp, OFFRAMP_..., but none of what this module sets: OFFRAMP_CONFIG, OFFRAMP_DATA, OFFRAMP_LISTEN, OFFRAMP_ADMIN..., nor OFFRAMP_LIMITS, OFFRAMP_LIMITS__STOP_TIME and OFFRAMP_LIMITS__STOP_DELAY, for which there are stop_seconds and drain_seconds."
  }
}

variable "repositories" {
  type        = object({ file_system_id = string, path = optional(string, "/"), security_group_id = string })
  default     = null
  description = "An EFS file system of yours with repositories, which are served read-only; they must belong to the user id 10001. security_group_id is that of its mount targets, in which NFS is opened for the tasks."

  validation {
    condition     = var.repositories == null || (startswith(try(var.repositories.file_system_id, ""), "fs-") && startswith(try(var.repositories.path, ""), "/"))
    error_message = "Write a file system, fs-..., and an absolute path in it."
  }
}

variable "files" {
  type        = map(string)
  default     = {}
  description = "Files with secrets below /run/offramp, by name: the ARN of the secret (Secrets Manager) that each is filled with. cloudfront-NAME.pem is a private key, others are what settings name: credential.file of an upstream, for one."

  validation {
    condition     = alltrue([for name, arn in var.files : can(regex("^[A-Za-z0-9][A-Za-z0-9._-]*$", name)) && name != "offramp.toml" && can(regex("^arn:[a-z-]+:secretsmanager:", arn))])
    error_message = "Write names of files, without a path, and ARNs of secrets, arn:aws:secretsmanager:..."
  }
}

variable "url_key_secret_arn" {
  type        = string
  default     = null
  description = "ARN of the secret that holds secret.key, which signs URLs of the target self; null: a task makes one."

  validation {
    condition     = var.url_key_secret_arn == null || can(regex("^arn:[a-z-]+:secretsmanager:", var.url_key_secret_arn))
    error_message = "Write the ARN of a secret, arn:aws:secretsmanager:..."
  }
}

variable "secrets_kms_key_arn" {
  type        = string
  default     = null
  description = "ARN of the KMS key that encrypts these secrets, if it is not that of the account."

  validation {
    condition     = var.secrets_kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.secrets_kms_key_arn))
    error_message = "Write the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID."
  }
}

variable "egress_ports" {
  type        = list(number)
  default     = [443]
  description = "Ports at which tasks may reach others: 443 for AWS, and those of upstreams, stores, targets and collectors of traces that are elsewhere."

  validation {
    condition     = contains(var.egress_ports, 443) && alltrue([for port in var.egress_ports : port >= 1 && port <= 65535 && floor(port) == port])
    error_message = "Write ports, 443 among them: without it no task could reach AWS."
  }

  validation {
    condition = alltrue([
      for port in concat(
        flatten(regexall("(?m)^[^#\n]*\"https?://[^/\"]*:([0-9]+)[/\"]", "${var.store_toml}\n${var.settings}")),
        [for url in regexall("(?m)^[^#\n]*\"http://[^/:\"]+[/\"]", "${var.store_toml}\n${var.settings}") : "80"],
      ) : contains(var.egress_ports, tonumber(port))
    ])
    error_message = "A URL in settings or store_toml has a port that tasks could not reach; write it in egress_ports, beside 443 (80 for http:// without a port)."
  }
}

# --- where it keeps what was computed ------------------------------------------------------

variable "cache" {
  type        = string
  default     = "ephemeral"
  description = "Where the data directory lies. ephemeral: on the task's own disk, which is fast and begins empty. efs: on a file system that outlives the task, slower, for one task: for mirrors of large upstreams."

  validation {
    condition     = contains(["ephemeral", "efs"], var.cache)
    error_message = "Write ephemeral or efs."
  }
}

variable "storage_gib" {
  type        = number
  default     = 60
  description = "GiB of the data directory: half for answers, a third for mirrors, the rest is room to work in. Of a task's own disk this is all."

  validation {
    condition     = var.storage_gib >= 21 && var.storage_gib <= (var.cache == "efs" ? 16384 : 200) && floor(var.storage_gib) == var.storage_gib
    error_message = "Fargate has from 21 to 200 GiB; with cache = \"efs\" it may be up to 16384."
  }
}

# --- how it is watched over ----------------------------------------------------------------

variable "idle_timeout" {
  type        = number
  default     = 70
  description = "Seconds for which an answer may say nothing before the load balancer gives it up. Offramp keeps connections for 75: beyond that, a request may meet one that is just being closed, and the client gets a 502."

  validation {
    condition     = var.idle_timeout >= 30 && var.idle_timeout <= 4000
    error_message = "Write 30 to 4000 seconds."
  }
}

variable "drain_seconds" {
  type        = number
  default     = 300
  description = "Seconds for which answers may go on that a task is sending when it leaves the load balancer. Only then is it told to stop."

  validation {
    condition     = var.drain_seconds >= 0 && var.drain_seconds <= 3600
    error_message = "Write 0 to 3600 seconds."
  }
}

variable "stop_seconds" {
  type        = number
  default     = 30
  description = "Seconds for which answers may go on that a task is still sending when it is told to stop (limits.stop_time)."

  validation {
    condition     = var.stop_seconds >= 0 && var.stop_seconds <= 105 && floor(var.stop_seconds) == var.stop_seconds
    error_message = "Write 0 to 105 seconds: Fargate kills a task 120 after it was told to stop. What takes longer is for drain_seconds."
  }
}

variable "log_days" {
  type        = number
  default     = 30
  description = "Days for which logs are kept."

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_days)
    error_message = "CloudWatch has 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365 days, and some more."
  }
}

variable "deletion_protection" {
  type        = bool
  default     = true
  description = "The load balancer, to which clients' DNS points, cannot be deleted."
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of everything that can have some."
}
