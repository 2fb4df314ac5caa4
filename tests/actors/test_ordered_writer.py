"""Small writes on a thread: in order, without waiting, and a disk that fails or hangs is noticed."""

from __future__ import annotations

import errno
import threading
from functools import partial

import pytest

from actors import ordered_writer
from actors.ordered_writer import OrderedWriter


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_writes_keep_their_order_and_flush_waits_for_all() -> None:
    writer, written = OrderedWriter("write"), list[int]()
    for number in range(500):
        writer.add(partial(written.append, number))
    writer.flush(10)
    assert written == list(range(500)) and writer.idle
    writer.flush(10)


def test_adding_does_not_wait_for_a_disk_that_hangs() -> None:
    disk, written = threading.Event(), list[str]()
    writer = OrderedWriter("write to runs/a", deadline_s=2.0)
    writer.add(partial(disk.wait, 10))
    writer.add(partial(written.append, "row"))
    with pytest.raises(TimeoutError, match=r"the driver did not write to runs/a within 2.5 s"):
        writer.flush(2.5)
    with pytest.raises(TimeoutError, match=r"the driver did not write to runs/a within 2 s"):
        writer.add(partial(written.append, "next"))
    assert not writer.idle and written == []
    disk.set()
    writer.flush(10)
    writer.add(partial(written.append, "later"))  # it answers again
    writer.flush(10)
    assert written == ["row", "later"]


def test_an_error_is_raised_by_the_next_call_and_leaves_no_gap() -> None:
    disk, written = threading.Event(), list[str]()
    writer = OrderedWriter("write")
    for write in (partial(disk.wait, 10), partial(written.append, "a"), full, partial(written.append, "c")):
        writer.add(write)
    disk.set()
    for call in (partial(writer.flush, 10), partial(writer.add, full), partial(writer.flush, 10)):
        with pytest.raises(OSError, match="No space left"):
            call()
    assert written == ["a"]


@pytest.mark.parametrize("deadline_s", [None, 60.0])
def test_a_full_queue_drops_lines_but_no_records(deadline_s: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_writer, "MAX_WAITING", 3)
    disk, begun, written = threading.Event(), threading.Event(), list[int]()
    writer = OrderedWriter("write", deadline_s)
    writer.add(lambda: (begun.set(), disk.wait(10)))
    assert begun.wait(10)
    for number in range(3):
        writer.add(partial(written.append, number))
    if deadline_s is None:
        writer.add(partial(written.append, 3))
    else:
        with pytest.raises(TimeoutError, match="3 writes wait"):
            writer.add(partial(written.append, 3))
    disk.set()
    writer.flush(10)
    assert written == [0, 1, 2] and writer.dropped == (1 if deadline_s is None else 0)
