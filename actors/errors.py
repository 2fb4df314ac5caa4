"""Errors that actors raise and callers distinguish. Imports nothing."""


class InputLost(RuntimeError):
    """An input of the call cannot be read. The actor is not at fault; it can do the work with the input sent again."""
