"""Counts what is executed, so that tests of complexity do not depend on the speed of the machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ACTORS = str(Path(__file__).resolve().parents[2] / "actors")


@contextlib.contextmanager
def executed_lines(folder: str = ACTORS) -> Iterator[Callable[[], int]]:
    """Counts the lines executed in the files of `folder`, each call and each round of a loop again.

    Loops inside the interpreter (``sorted``, ``list.remove``) count as one line.
    """
    count = 0

    def in_function(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return in_function

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(folder):
            return None
        count += 1  # generators too: one that is resumed begins no new line
        return in_function

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)
