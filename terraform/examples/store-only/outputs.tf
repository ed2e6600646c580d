# What comes next: settings, keys, and what may be done.

output "settings_toml" {
  description = "Part of offramp.toml."
  value       = module.store.settings_toml
}

output "signing_keys" {
  description = "Where each private key must lie."
  value       = module.store.signing_keys
}

output "access_policy" {
  description = "IAM policy of the user or role that Offramp runs as."
  value       = module.store.access_policy
}
