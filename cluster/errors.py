"""The one class of errors that a user can fix. It imports nothing, so that every early check can use it."""


class UsageError(Exception):
    """Something the user can fix. The command line prints the message and exits with status 2, without a traceback."""
