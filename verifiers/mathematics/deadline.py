"""The clock of one answer: set by ``grade_math``, looked at wherever the exact path computes.

It is bound to the context and not handed from call to call, so no path of the comparison can forget it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end: ContextVar[float] = ContextVar("end")  # on the monotonic clock


class DeadlineExceeded(Exception):
    """The answer's time is up."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give what runs inside so many seconds of wall time."""
    token = _end.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _end.reset(token)


def remaining() -> float:
    """Seconds that are left; at least 0."""
    return max(0.0, _end.get(math.inf) - time.monotonic())


def check() -> None:
    """Raise OutOfTime where no time is left."""
    if time.monotonic() > _end.get(math.inf):
        raise DeadlineExceeded
