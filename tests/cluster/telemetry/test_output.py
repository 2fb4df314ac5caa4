"""A run continues when its output cannot be written."""

from __future__ import annotations

import errno
import io
import logging
import sys

import pytest

from cluster.telemetry.output import surviving_output
from cluster.telemetry.progress import Progress


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_under_the_output_is_logged_once_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    monkeypatch.setattr(sys, "stdout", disk)
    progress = Progress(objective=lambda step: "pass@8")
    with caplog.at_level(logging.WARNING, "cluster"), surviving_output():
        progress.start(total=3, first_step=0)
        progress.message("before")
        disk.full = True
        progress.message("lost")
        print("lost too", flush=True)
        disk.full = False
        progress.message("after")
        progress.stop()
        disk.full = True
        progress.message("lost again")
    assert disk.getvalue() == "before\nafter\n"
    assert [record.getMessage() for record in caplog.records] == [
        "standard output cannot be written: [Errno 28] No space left on device. The run continues; this file has "
        "its messages"
    ]
    assert sys.stdout is disk


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is a device of Linux")
def test_a_buffered_file_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # closing it fails too
    monkeypatch.setattr(sys, "stderr", full)
    with surviving_output():
        for _ in range(3):
            print("x" * 10_000, file=sys.stderr, flush=True)
    with pytest.raises(OSError, match="No space left"):
        full.close()
