# What comes next: the name to point at the load balancer, and what to look at.

output "url" {
  description = "How clients reach the service."
  value       = module.service.url
}

output "balancer_dns_name" {
  description = "What the domain must point at."
  value       = module.service.balancer_dns_name
}

output "cdn_url" {
  description = "Where clients are sent."
  value       = module.store.cdn_url
}

output "log_group_name" {
  description = "Where the logs are."
  value       = module.service.log_group_name
}

output "settings_toml" {
  description = "The settings with which tasks run; no secret is among them."
  value       = module.service.settings_toml
}
