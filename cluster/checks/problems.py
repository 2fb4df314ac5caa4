"""Collects the problems that independent checks find, so that one message lists them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from cluster.config import shortened
from cluster.errors import UsageError
from cluster.records.checkpoints import CheckpointError

T = TypeVar("T")


class Problems:
    """One line per problem, in the order in which the checks ran."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def of(self, check: Callable[[], T]) -> T | None:
        """The result of `check`; None if it refused, which is noted."""
        try:
            return check()
        except (UsageError, CheckpointError, ConnectionError) as error:
            self.lines.append(str(error))  # may have several lines, and says itself how many more there are
            return None

    def add(self, found: Callable[[], Iterable[str]]) -> bool:
        """Note the lines that a check yields, also those before it raises; returns whether there were none."""
        before = len(self.lines)
        self.of(lambda: self.lines.extend(found()))
        return len(self.lines) == before

    def refuse(self) -> None:
        """Raise UsageError with the first problems, if there are any."""
        if self.lines:
            raise UsageError("\n".join(shortened(list(dict.fromkeys(self.lines)))))
