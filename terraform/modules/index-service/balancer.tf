# Law of this file: TLS ends here, and a task that leaves gets no new requests while it ends the old
# ones.

resource "aws_lb" "this" {
  name                       = var.name
  load_balancer_type         = "application"
  internal                   = var.internal
  subnets                    = var.public_subnet_ids
  security_groups            = [aws_security_group.balancer.id]
  idle_timeout               = var.idle_timeout
  drop_invalid_header_fields = true
  enable_deletion_protection = var.deletion_protection
  tags                       = var.tags
}

resource "aws_lb_target_group" "this" {
  name_prefix          = "offr-" # no longer ones are taken
  vpc_id               = var.vpc_id
  target_type          = "ip"
  protocol             = "HTTP"
  port                 = local.port
  deregistration_delay = var.drain_seconds
  tags                 = var.tags

  # A clone that is sent inline takes a task for minutes; the next one goes where fewer run.
  load_balancing_algorithm_type = "least_outstanding_requests"

  health_check {
    path                = "/-/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "HTTPS"
  port              = 443
  certificate_arn   = var.certificate_arn
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  tags              = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

# What is not for clients is not at this port of a task at all (admin.listen). Should that ever be
# undone, they do not come through here: of what is Offramp's own, this is what they need.
resource "aws_lb_listener_rule" "clients" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 1
  tags         = var.tags

  condition {
    path_pattern {
      values = ["/-/blobs/*", "/-/bundles/*", "/-/here/*", "/-/livez", "/-/readyz"]
    }
  }

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_lb_listener_rule" "operators" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 2
  tags         = var.tags

  condition {
    path_pattern {
      # As it is written: a load balancer decodes nothing, and takes no % in a pattern. Other
      # spellings reach a port at which there is no such route.
      values = ["/-/*"]
    }
  }

  action {
    type = "fixed-response"

    fixed_response {
      content_type = "text/plain"
      message_body = "Not found"
      status_code  = "404"
    }
  }
}
