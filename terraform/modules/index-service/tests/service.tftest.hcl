# Law of this file: what is said of the service holds in what Terraform would make of it.

mock_provider "aws" {
  override_data {
    target = data.aws_subnet.public[0]
    values = { cidr_block = "10.0.0.0/24" }
  }

  override_data {
    target = data.aws_subnet.public[1]
    values = { cidr_block = "10.0.1.0/24" }
  }

  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/offramp" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:/offramp/offramp" }
  }

  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:loadbalancer/app/offramp/1" }
  }

  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/offr-/1" }
  }

  mock_resource "aws_lb_listener" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:listener/app/offramp/1/2" }
  }

  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:111122223333:task-definition/offramp:1" }
  }

  mock_resource "aws_efs_file_system" {
    defaults = { arn = "arn:aws:elasticfilesystem:eu-central-1:111122223333:file-system/fs-1" }
  }

  mock_resource "aws_efs_access_point" {
    defaults = { arn = "arn:aws:elasticfilesystem:eu-central-1:111122223333:access-point/fsap-1" }
  }
}

variables {
  vpc_id             = "vpc-1"
  public_subnet_ids  = ["subnet-1", "subnet-2"]
  private_subnet_ids = ["subnet-3", "subnet-4"]
  client_cidrs       = ["10.0.0.0/8"]
  domain             = "git.example.org"
  certificate_arn    = "arn:aws:acm:eu-central-1:111122223333:certificate/1234abcd"
  image              = "registry.example.org/offramp:0.1.0"
  store_toml         = "[store]\ntype = \"s3\"\nbucket = \"example-offramp\"\nregion = \"eu-central-1\"\n"
  store_policy       = "{\"Version\":\"2012-10-17\",\"Statement\":[]}"
  url_key_secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:url-key"
  files              = { "cloudfront-2026-1.pem" = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:cdn" }
  settings           = "[[upstreams]]\nprefix = \"/forge/\"\nurl = \"https://forge.example.org\"\n"
}

run "a_task_may_do_no_more_than_it_does" {
  assert {
    condition     = aws_iam_role_policy.store.policy == var.store_policy && length(aws_iam_role_policy.cache) == 0
    error_message = "A task may do more than the store's policy says."
  }

  assert {
    condition = { for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : statement.Sid => statement.Resource } == {
      Logs = "arn:aws:logs:eu-central-1:111122223333:log-group:/offramp/offramp:*"
      Secrets = [
        "arn:aws:secretsmanager:eu-central-1:111122223333:secret:cdn",
        "arn:aws:secretsmanager:eu-central-1:111122223333:secret:url-key",
      ]
    }
    error_message = "Who starts a task may do other things."
  }
}

run "a_task_writes_where_it_must" {
  assert {
    condition = alltrue([
      for container in jsondecode(aws_ecs_task_definition.this.container_definitions) :
      container.readonlyRootFilesystem && container.user == "10001" && container.linuxParameters.capabilities.drop == ["ALL"]
    ])
    error_message = "A container is root, or can change itself."
  }

  assert {
    condition     = alltrue([for volume in aws_ecs_task_definition.this.volume : length(volume.efs_volume_configuration) == 0])
    error_message = "A data directory of several tasks lies on a file system that they share."
  }
}

run "secrets_are_files_and_not_in_the_server_s_environment" {
  assert {
    condition     = !can(jsondecode(aws_ecs_task_definition.this.container_definitions)[1].secrets)
    error_message = "The server has secrets in its environment."
  }

  assert {
    condition = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].command[0] == trimspace(<<-SHELL
      umask 077
      printf '%s' "$CONFIG" > /run/offramp/offramp.toml
      printf '%s\n' "$${FILE_0}" > /run/offramp/cloudfront-2026-1.pem
      printf '%s\n' "$${URL_KEY}" > /data/secret.key
    SHELL
    )
    error_message = "The files are others."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[1].dependsOn == [{ containerName = "files", condition = "SUCCESS" }]
    error_message = "The server may begin without its files."
  }
}

run "what_has_begun_is_ended" {
  assert {
    condition     = tonumber(aws_lb_target_group.this.deregistration_delay) == 300 && jsondecode(aws_ecs_task_definition.this.container_definitions)[1].stopTimeout == 45
    error_message = "Answers are cut off when a task leaves."
  }

  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.this.container_definitions)[1].environment, { name = "OFFRAMP_LIMITS__STOP_TIME", value = "30s" })
    error_message = "A task takes another time to stop than Fargate is told."
  }

  assert {
    condition     = aws_lb_target_group.this.health_check[0].path == "/-/readyz"
    error_message = "A task without repositories is asked for them."
  }
}

run "what_takes_longer_to_stop_is_killed_later" {
  command = plan

  variables {
    stop_seconds = 105
  }

  assert {
    condition     = local.stop_timeout == 120
    error_message = "A task is killed before it has stopped, or Fargate refuses it."
  }
}

run "nothing_for_operators_is_where_clients_ask" {
  assert {
    condition     = strcontains(output.settings_toml, "\n[admin]\nlisten = \"0.0.0.0:9417\"\n")
    error_message = "The port for clients has the figures and the decisions."
  }

  assert {
    condition = alltrue([
      for rule in [aws_vpc_security_group_egress_rule.to_tasks, aws_vpc_security_group_ingress_rule.from_balancer] :
      rule.from_port == 8417 && rule.to_port == 8417
    ])
    error_message = "The load balancer reaches what is for operators."
  }
}

run "nobody_asks_for_it_through_the_load_balancer" {
  assert {
    condition     = aws_lb_listener_rule.operators.action[0].type == "fixed-response" && aws_lb_listener_rule.clients.priority < aws_lb_listener_rule.operators.priority
    error_message = "It is handed on."
  }

  assert {
    condition     = contains(one(one(aws_lb_listener_rule.operators.condition[*]).path_pattern[*].values), "/-/*")
    error_message = "Some of it is handed on."
  }
}

run "clients_do_not_say_who_they_are" {
  assert {
    condition     = strcontains(output.settings_toml, "\nproxies = [\"10.0.0.0/24\",\"10.0.1.0/24\"]\n")
    error_message = "Others than the load balancer are believed when they say for whom they ask."
  }
}

run "clients_of_the_named_networks_reach_the_load_balancer" {
  assert {
    condition     = [for rule in aws_vpc_security_group_ingress_rule.clients : rule.cidr_ipv4] == ["10.0.0.0/8"] && length(aws_vpc_security_group_ingress_rule.metrics) == 0
    error_message = "Others reach it, or reach tasks directly."
  }
}

run "operators_reach_what_is_for_them" {
  command = plan

  variables {
    metrics_cidrs = ["10.9.0.0/28"]
  }

  assert {
    condition = [
      for rule in aws_vpc_security_group_ingress_rule.metrics :
      [rule.cidr_ipv4, tostring(rule.from_port), tostring(rule.to_port)]
    ] == [["10.9.0.0/28", "9417", "9417"]]
    error_message = "They do not reach it, or reach what is for clients past the load balancer."
  }
}

run "tasks_reach_the_ports_that_they_need" {
  command = plan

  variables {
    egress_ports = [443, 8443, 80]
    settings     = "[[upstreams]]\nurl = \"https://forge.example.org:8443\"\n[[upstreams]]\nurl = \"http://other.example.org/git\"\n# url = \"https://old.example.org:444\"\n"
  }

  assert {
    condition     = sort([for rule in aws_vpc_security_group_egress_rule.out : tostring(rule.to_port)]) == tolist(["443", "80", "8443"])
    error_message = "An upstream could not be reached, or more could."
  }
}

run "as_much_memory_as_fargate_has" {
  command = plan

  variables {
    cpu    = 8192
    memory = 61440
  }
}

run "a_cache_that_stays_has_one_task" {
  variables {
    cache = "efs"
    tasks = { min = 1, max = 1 }
  }

  assert {
    condition     = aws_ecs_service.this.deployment_maximum_percent == 100 && aws_ecs_service.this.deployment_minimum_healthy_percent == 0
    error_message = "Two tasks have one data directory while one replaces the other."
  }

  assert {
    condition     = jsondecode(aws_iam_role_policy.cache["this"].policy).Statement[0].Condition.StringEquals["elasticfilesystem:AccessPointArn"] == aws_efs_access_point.cache["this"].arn
    error_message = "A task may mount other directories of the file system."
  }

  assert {
    condition     = aws_efs_file_system.cache["this"].encrypted
    error_message = "Content lies there in the clear."
  }

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.nfs) == 1
    error_message = "Tasks cannot reach the file system, or others can."
  }
}

run "repositories_are_mounted_read_only" {
  variables {
    repositories = { file_system_id = "fs-2", path = "/git", security_group_id = "sg-2" }
    settings     = ""
  }

  assert {
    condition     = [for mount in jsondecode(aws_ecs_task_definition.this.container_definitions)[1].mountPoints : mount.readOnly if mount.containerPath == "/repositories"] == [true]
    error_message = "Repositories can be changed, or are not there."
  }

  assert {
    condition     = startswith(output.settings_toml, "root = \"/repositories\"\n")
    error_message = "They are not served."
  }
}

# --- what is refused -----------------------------------------------------------------------

run "several_tasks_on_one_file_system" {
  command         = plan
  expect_failures = [var.tasks]

  variables {
    cache = "efs"
  }
}

run "several_tasks_with_a_key_each" {
  command         = plan
  expect_failures = [var.tasks]

  variables {
    url_key_secret_arn = null
  }
}

run "nothing_to_serve" {
  command         = plan
  expect_failures = [var.settings]

  variables {
    settings = ""
  }
}

run "a_table_that_the_module_writes" {
  command         = plan
  expect_failures = [var.settings]

  variables {
    settings = "[[upstreams]]\n[cache]\nmax_size = \"1GiB\"\n"
  }
}

run "an_image_that_changes" {
  command         = plan
  expect_failures = [var.image]

  variables {
    image = "registry.example.org/offramp:latest"
  }
}

run "an_image_without_a_tag" {
  command         = plan
  expect_failures = [var.image]

  variables {
    image = "registry.example.org:5000/offramp"
  }
}

run "a_disk_that_fargate_does_not_have" {
  command         = plan
  expect_failures = [var.storage_gib]

  variables {
    storage_gib = 500
  }
}

run "memory_that_fargate_does_not_have" {
  command         = plan
  expect_failures = [var.memory]

  variables {
    cpu    = 8192
    memory = 65536
  }
}

run "memory_in_steps_that_fargate_does_not_have" {
  command         = plan
  expect_failures = [var.memory]

  variables {
    cpu    = 16384
    memory = 33792
  }
}

run "a_stop_that_fargate_does_not_wait_for" {
  command         = plan
  expect_failures = [var.stop_seconds]

  variables {
    stop_seconds = 106
  }
}

run "a_time_to_stop_that_the_module_does_not_know" {
  command         = plan
  expect_failures = [var.settings, var.environment]

  variables {
    settings    = "[[upstreams]]\nurl = \"https://forge.example.org\"\n[limits]\nstop_time = \"90s\"\n"
    environment = { OFFRAMP_LIMITS__STOP_DELAY = "20s" }
  }
}

run "a_listener_that_clients_reach" {
  command         = plan
  expect_failures = [var.settings, var.environment]

  variables {
    settings    = "[[upstreams]]\nurl = \"https://forge.example.org\"\n[admin]\nlisten = \"0.0.0.0:8418\"\n"
    environment = { OFFRAMP_admin__listen = "0.0.0.0:8418" }
  }
}

run "an_upstream_that_cannot_be_reached" {
  command         = plan
  expect_failures = [var.egress_ports]

  variables {
    settings = "[[upstreams]]\nurl = \"https://forge.example.org:8443\"\n"
  }
}

run "a_service_that_cannot_reach_aws" {
  command         = plan
  expect_failures = [var.egress_ports]

  variables {
    egress_ports = [8443]
  }
}
