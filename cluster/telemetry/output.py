"""Keeps a run alive when its standard output cannot be written, such as a log file on a full disk or a closed pipe."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def surviving_output() -> Iterator[None]:
    """While the body runs, text that standard output or error does not take is dropped; the first failure is logged."""
    with (
        contextlib.redirect_stdout(cast(TextIO, _Surviving(sys.stdout, "standard output"))),
        contextlib.redirect_stderr(cast(TextIO, _Surviving(sys.stderr, "standard error"))),
    ):
        yield


class _Surviving:
    """A text stream in front of `stream` whose `write` and `flush` raise no OSError."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._failed = False

    def write(self, text: str) -> int:
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            self._stream.flush()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failed:  # each line would fail, perhaps for hours
                logger.warning(
                    "%s cannot be written: %s. The run continues; this file has its messages", self._name, error
                )
            self._failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
