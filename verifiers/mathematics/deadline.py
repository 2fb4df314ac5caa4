"""The deadline of one answer: set by ``grade_math``, checked wherever the exact path computes.

It is a context variable and not a parameter, so no path of the comparison can omit it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end: ContextVar[float] = ContextVar("end")  # on the monotonic clock


class DeadlineExceeded(Exception):
    """The deadline of the answer has passed."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit the block to this many seconds of wall time."""
    token = _end.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _end.reset(token)


def remaining() -> float:
    """Seconds until the deadline; at least 0."""
    return max(0.0, _end.get(math.inf) - time.monotonic())


def check() -> None:
    """Raise OutOfTime if the deadline has passed."""
    if time.monotonic() > _end.get(math.inf):
        raise DeadlineExceeded
