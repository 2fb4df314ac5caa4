"""Exit statuses of `bonrl`."""

COMPLETED = 0
FAILED = 1
REFUSED = 2  # something that the user can fix (`cluster.errors.UsageError`); nothing was started
INTERRUPTED = 130  # as a shell reports SIGINT
