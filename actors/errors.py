"""Errors that actors raise for their callers to tell apart. Imports nothing."""


class InputLost(RuntimeError):
    """What a call needs cannot be read. The actor did not begin the work, so its state is what it was before."""
