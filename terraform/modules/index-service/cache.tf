# Law of this file: a data directory that outlives its task lies on a file system of its own, which
# one task has at a time.

locals {
  efs = var.cache == "efs" ? { this = true } : {}
}

resource "aws_efs_file_system" "cache" {
  for_each = local.efs

  encrypted       = true
  throughput_mode = "elastic"
  tags            = merge(var.tags, { Name = "${var.name}-data" })
}

resource "aws_security_group" "cache" {
  for_each = local.efs

  name_prefix = "${var.name}-data-"
  description = "Offramp: the data directory"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_efs_mount_target" "cache" {
  for_each = var.cache == "efs" ? toset(var.private_subnet_ids) : toset([])

  file_system_id  = aws_efs_file_system.cache["this"].id
  subnet_id       = each.value
  security_groups = [aws_security_group.cache["this"].id]
}

resource "aws_efs_access_point" "cache" {
  for_each = local.efs

  file_system_id = aws_efs_file_system.cache[each.key].id
  tags           = var.tags

  posix_user {
    uid = local.user
    gid = local.user
  }

  root_directory {
    path = "/offramp"

    creation_info {
      owner_uid   = local.user
      owner_gid   = local.user
      permissions = "0700"
    }
  }
}
