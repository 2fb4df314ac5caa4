"""A run continues when its output cannot be written."""

from __future__ import annotations

import errno
import io
import logging
import sys
import threading
import time

import pytest
import typer

from cluster.telemetry import output
from cluster.telemetry.output import surviving_output
from cluster.telemetry.progress import Progress


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def written() -> None:
    """Wait for the thread that writes to standard output."""
    sys.stdout._writer.flush(10)  # type: ignore[attr-defined]


def test_typer_writes_to_it_as_to_a_text_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with surviving_output():
        typer.echo("größer")
        typer.echo("error", err=True)
        with pytest.raises(TypeError, match="standard output takes text, not bytes"):
            sys.stdout.write(b"")  # type: ignore[call-overload]
    assert capsys.readouterr() == ("größer\n", "error\n")


def test_a_terminal_that_hangs_stops_nobody_and_the_streams_keep_their_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, answers = threading.Event(), threading.Event()
    terminal: list[str] = []

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            begun.set()
            assert answers.wait(30)
            terminal.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    monkeypatch.setattr(output, "END_SECONDS", 0.1)
    with caplog.at_level(logging.WARNING, "cluster"), surviving_output():
        for number in range(4):
            (sys.stdout, sys.stderr)[number % 2].write(str(number))
        assert begun.wait(10) and not terminal
    assert [record.getMessage() for record in caplog.records] == [
        "the driver did not print its messages within 0.1 s: its output hangs, and this file has them"
    ]
    answers.set()
    for _ in range(1000):
        if len(terminal) == 4:
            break
        time.sleep(0.01)
    assert terminal == ["0", "1", "2", "3"]


def test_a_full_disk_under_the_output_is_logged_once_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    monkeypatch.setattr(sys, "stdout", disk)
    progress = Progress(objective=lambda step: "pass@8")
    with caplog.at_level(logging.WARNING, "cluster"), surviving_output():
        progress.start(total=3, first_step=0)
        progress.message("before")
        written()
        disk.full = True
        progress.message("lost")
        print("lost too", flush=True)
        written()
        disk.full = False
        progress.message("after")
        progress.stop()
        written()
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
