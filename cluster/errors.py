"""The one class of errors that are the user's to mend. Imports nothing, so that every early check can use it."""


class UsageError(Exception):
    """Something the user can mend. The command line prints the message and exits with status 2, no traceback."""
