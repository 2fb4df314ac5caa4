"""Keeps a run alive when its standard output cannot be written: a log file on a full disk, a closed pipe, a terminal
that was stopped by Ctrl-S.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from actors.ordered_writer import OrderedWriter

logger = logging.getLogger(__name__)

END_SECONDS = 60.0  # for the last lines, which a stopped terminal takes when it is started again


@contextlib.contextmanager
def surviving_output() -> Iterator[None]:
    """While the body runs, text that standard output or error does not take is dropped; the first failure is logged.

    Both are written on one thread, in order, so that one that hangs does not stop the driver.
    """
    writer = OrderedWriter("print its messages")
    with (
        contextlib.redirect_stdout(cast(TextIO, _Surviving(sys.stdout, "standard output", writer))),
        contextlib.redirect_stderr(cast(TextIO, _Surviving(sys.stderr, "standard error", writer))),
    ):
        try:
            yield
        finally:
            try:
                writer.flush(END_SECONDS)
            except TimeoutError as error:
                logger.warning("%s: its output hangs, and this file has them", error)
            if writer.dropped:
                logger.warning("%d parts of messages were not printed: the output hung for too long", writer.dropped)


class _Surviving:
    """A text stream in front of `stream` whose `write` and `flush` raise no OSError."""

    def __init__(self, stream: TextIO, name: str, writer: OrderedWriter) -> None:
        self._stream, self._name, self._writer = stream, name, writer
        self._failed = False

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # at once: typer tries bytes to find out what kind of stream it has
            raise TypeError(f"{self._name} takes text, not {type(text).__name__}")
        self._writer.add(lambda: self._guarded(lambda: self._stream.write(text)))
        return len(text)

    def flush(self) -> None:
        """Begin to write what is in the stream's buffer; does not wait for it."""
        self._writer.add(lambda: self._guarded(self._stream.flush))

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            if not self._failed:  # each line would fail, perhaps for hours
                logger.warning(
                    "%s cannot be written: %s. The run continues; this file has its messages", self._name, error
                )
            self._failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
