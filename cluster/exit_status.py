"""Exit statuses of `bonrl`. A usage error exits with 2 (`cluster.errors.UsageError`)."""

COMPLETED = 0
FAILED = 1
INTERRUPTED = 130  # as a shell reports SIGINT
