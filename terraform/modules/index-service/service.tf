# Law of this file: a task is a server that writes nowhere but where it must, and is told to stop in
# time to end what it has begun.

locals {
  # Offramp ends by itself within 8 seconds after limits.stop_time (server/serving.py), and is killed
  # after these.
  stop_timeout = var.stop_seconds + 15

  # Memory in MiB that goes with so much cpu: the least, the most, and in steps of what.
  fargate = {
    512   = { least = 1024, most = 4096, step = 1024 }
    1024  = { least = 2048, most = 8192, step = 1024 }
    2048  = { least = 4096, most = 16384, step = 1024 }
    4096  = { least = 8192, most = 30720, step = 1024 }
    8192  = { least = 16384, most = 61440, step = 4096 }
    16384 = { least = 32768, most = 122880, step = 8192 }
  }

  log = {
    logDriver = "awslogs"
    options = {
      awslogs-group         = aws_cloudwatch_log_group.this.name
      awslogs-region        = data.aws_region.current.name
      awslogs-stream-prefix = "task"
    }
  }

  # `files` runs first and ends: it writes settings and secrets, which the server is given as files,
  # not in its environment.
  mounts = concat(
    [
      { sourceVolume = "data", containerPath = local.data, readOnly = false },
      { sourceVolume = "run", containerPath = local.runtime, readOnly = false },
      { sourceVolume = "tmp", containerPath = "/tmp", readOnly = false },
    ],
    [for repositories in var.repositories[*] : { sourceVolume = "repositories", containerPath = local.root, readOnly = true }],
  )

  write_files = join("\n", concat(
    ["umask 077", "printf '%s' \"$CONFIG\" > ${local.runtime}/offramp.toml"],
    [for variable, file in local.files : "printf '%s\\n' \"$${${variable}}\" > ${file.path}"],
  ))

  # What ECS fills in by itself is written down too, or each plan would find a difference.
  unprivileged = {
    image                  = var.image
    user                   = tostring(local.user)
    readonlyRootFilesystem = true
    linuxParameters        = { initProcessEnabled = true, capabilities = { drop = ["ALL"] } }
    logConfiguration       = local.log
    mountPoints            = local.mounts
    portMappings           = []
    systemControls         = []
    volumesFrom            = []
  }

  containers = [
    merge(local.unprivileged, {
      name        = "files"
      essential   = false
      entryPoint  = ["/bin/sh", "-euc"]
      command     = [local.write_files]
      environment = [{ name = "CONFIG", value = local.toml }]
      secrets     = [for variable, file in local.files : { name = variable, valueFrom = file.secret }]
    }),
    merge(local.unprivileged, {
      name         = "offramp"
      essential    = true
      command      = ["serve"]
      stopTimeout  = local.stop_timeout
      dependsOn    = [{ containerName = "files", condition = "SUCCESS" }]
      portMappings = [for port in [local.port, local.admin] : { containerPort = port, hostPort = port, protocol = "tcp" }]
      environment = concat(
        [
          { name = "OFFRAMP_CONFIG", value = "${local.runtime}/offramp.toml" },
          { name = "OFFRAMP_DATA", value = local.data },
          { name = "OFFRAMP_LISTEN", value = "0.0.0.0:${local.port}" },
          { name = "OFFRAMP_LIMITS__STOP_TIME", value = "${var.stop_seconds}s" },
        ],
        [for name, value in var.environment : { name = name, value = value }],
      )
      # Alive, not ready: one whose repositories are gone for a moment must not be killed.
      healthCheck = {
        command     = ["CMD", "python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:${local.port}/-/livez', timeout=4)"]
        interval    = 30
        timeout     = 5
        retries     = 3
        startPeriod = 60
      }
    }),
  ]
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/offramp/${var.name}"
  retention_in_days = var.log_days
  tags              = var.tags
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = var.tags
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.task.arn
  execution_role_arn       = aws_iam_role.execution.arn
  container_definitions    = jsonencode(local.containers)
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  # All volumes without a file system lie on this disk.
  ephemeral_storage {
    size_in_gib = var.cache == "efs" ? 21 : var.storage_gib
  }

  volume {
    name = "run"
  }

  volume {
    name = "tmp"
  }

  volume {
    name = "data"

    dynamic "efs_volume_configuration" {
      for_each = aws_efs_access_point.cache

      content {
        file_system_id     = efs_volume_configuration.value.file_system_id
        transit_encryption = "ENABLED"

        authorization_config {
          access_point_id = efs_volume_configuration.value.id
          iam             = "ENABLED"
        }
      }
    }
  }

  dynamic "volume" {
    for_each = var.repositories[*]

    content {
      name = "repositories"

      efs_volume_configuration {
        file_system_id     = volume.value.file_system_id
        root_directory     = volume.value.path
        transit_encryption = "ENABLED"
      }
    }
  }
}

resource "aws_ecs_service" "this" {
  name                              = var.name
  cluster                           = aws_ecs_cluster.this.id
  task_definition                   = aws_ecs_task_definition.this.arn
  launch_type                       = "FARGATE"
  desired_count                     = var.tasks.min
  health_check_grace_period_seconds = 90
  propagate_tags                    = "SERVICE"
  tags                              = var.tags

  # Two tasks must not have one data directory, not even while one replaces the other.
  deployment_minimum_healthy_percent = var.cache == "efs" ? 0 : 100
  deployment_maximum_percent         = var.cache == "efs" ? 100 : 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.private_subnet_ids
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.this.arn
    container_name   = "offramp"
    container_port   = local.port
  }

  # A task that may not yet read its secrets, or mount its disk, would fail.
  depends_on = [
    aws_lb_listener.https,
    aws_iam_role_policy.store,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.cache,
    aws_efs_mount_target.cache,
  ]

  lifecycle {
    ignore_changes = [desired_count] # autoscaling has it
  }
}
