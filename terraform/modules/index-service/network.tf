# Law of this file: clients reach the load balancer, the load balancer reaches tasks where they serve
# clients, operators reach them where they serve operators, tasks reach what they need; nobody else
# reaches anybody.

resource "aws_security_group" "balancer" {
  name_prefix = "${var.name}-balancer-"
  description = "Offramp: the load balancer"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(var.client_cidrs)

  security_group_id = aws_security_group.balancer.id
  description       = "Clients"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "to_tasks" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "Tasks"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
}

resource "aws_security_group" "tasks" {
  name_prefix = "${var.name}-tasks-"
  description = "Offramp: the tasks"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "from_balancer" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "The load balancer"
  referenced_security_group_id = aws_security_group.balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
}

resource "aws_vpc_security_group_ingress_rule" "metrics" {
  for_each = toset(var.metrics_cidrs)

  security_group_id = aws_security_group.tasks.id
  description       = "Prometheus and operators"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = local.admin
  to_port           = local.admin
}

resource "aws_vpc_security_group_egress_rule" "out" {
  for_each = toset([for port in var.egress_ports : tostring(port)])

  security_group_id = aws_security_group.tasks.id
  description       = "S3, the CDN, upstreams, AWS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

# --- file systems --------------------------------------------------------------------------

locals {
  # A list, not a set: the id of a group that is made in the same run is not known before.
  nfs = concat(
    [for repositories in var.repositories[*] : repositories.security_group_id],
    [for group in aws_security_group.cache : group.id],
  )
}

resource "aws_vpc_security_group_egress_rule" "to_nfs" {
  count = length(local.nfs)

  security_group_id            = aws_security_group.tasks.id
  description                  = "File systems"
  referenced_security_group_id = local.nfs[count.index]
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
}

resource "aws_vpc_security_group_ingress_rule" "nfs" {
  count = length(local.nfs)

  security_group_id            = local.nfs[count.index]
  description                  = "Tasks of ${var.name}"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
}
