"""Errors that actors raise and callers distinguish. Imports nothing."""


class InputLost(RuntimeError):
    """An input of the call cannot be read. The actor did not begin the work, so its state is unchanged."""
