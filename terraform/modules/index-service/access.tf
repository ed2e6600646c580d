# Law of this file: a task may do to the store what Offramp does, and nothing else; whoever starts
# it may read its secrets, and nothing else.

locals {
  assume_role = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
    }]
  })

  execution_policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid      = "Logs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.this.arn}:*"
      }],
      [for secrets in length(local.secrets) == 0 ? [] : [local.secrets] : {
        Sid      = "Secrets"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = secrets
      }],
      [for key in var.secrets_kms_key_arn[*] : {
        Sid      = "SecretsKey"
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = key
      }],
      [for repository in var.ecr_repository_arn[*] : {
        Sid      = "Image"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = repository
      }],
      # A login is not for one repository.
      [for repository in var.ecr_repository_arn[*] : {
        Sid      = "ImageLogin"
        Effect   = "Allow"
        Action   = "ecr:GetAuthorizationToken"
        Resource = "*"
      }],
    )
  })
}

resource "aws_iam_role" "task" {
  name_prefix        = "${var.name}-task-"
  description        = "Offramp: what a task does"
  assume_role_policy = local.assume_role
  tags               = var.tags
}

resource "aws_iam_role_policy" "store" {
  name   = "store"
  role   = aws_iam_role.task.id
  policy = var.store_policy
}

resource "aws_iam_role_policy" "cache" {
  for_each = local.efs

  name = "data"
  role = aws_iam_role.task.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
      Resource  = aws_efs_file_system.cache[each.key].arn
      Condition = { StringEquals = { "elasticfilesystem:AccessPointArn" = aws_efs_access_point.cache[each.key].arn } }
    }]
  })
}

resource "aws_iam_role" "execution" {
  name_prefix        = "${var.name}-start-"
  description        = "Offramp: what starting a task needs"
  assume_role_policy = local.assume_role
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  name   = "start"
  role   = aws_iam_role.execution.id
  policy = local.execution_policy
}
