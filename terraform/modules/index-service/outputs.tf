# Law of this file: what an operator needs next. No secret is among it.

output "url" {
  description = "How clients reach the service."
  value       = "https://${var.domain}"
}

output "balancer_dns_name" {
  description = "What domain must point at, by CNAME or alias."
  value       = aws_lb.this.dns_name
}

output "balancer_zone_id" {
  description = "Zone of the load balancer, for an alias record of Route 53."
  value       = aws_lb.this.zone_id
}

output "cluster_name" {
  description = "The ECS cluster."
  value       = aws_ecs_cluster.this.name
}

output "service_name" {
  description = "The ECS service, such as for aws ecs update-service --force-new-deployment after a secret was changed."
  value       = aws_ecs_service.this.name
}

output "log_group_name" {
  description = "Where the logs are."
  value       = aws_cloudwatch_log_group.this.name
}

output "tasks_security_group_id" {
  description = "Security group of the tasks, to let them reach more."
  value       = aws_security_group.tasks.id
}

output "settings_toml" {
  description = "The settings with which tasks run."
  value       = local.toml
}
