"""Judging a program by what it prints for one input."""

from __future__ import annotations

import fcntl
import os
import select
from typing import Any

from .channel import Channel, ChannelLost, report
from .raised import Raised

STDIN, STDOUT = 5, 6


def judge(job: dict[str, Any], channel: Channel) -> tuple[str, str]:
    """Feed the program its input, collect what it prints up to the limit, and compare here; status and detail."""
    try:
        channel.send(job["program"].encode("utf-8", "surrogatepass"))
        printed = _talk(job["input"].encode("utf-8"), channel.reply_limit)
        if printed is None:
            return "wrong", f"the program printed more than {channel.reply_limit} bytes"
        channel.calls, channel.engaged = 1, True
        try:
            loaded = channel.receive()
        except ChannelLost:
            # It ended itself; what it printed counts if its exit status, which the client learns, is 0.
            report(ended=True)
            loaded = {"loaded": "yes"}
    except ChannelLost as error:
        return "crash", str(error)
    if loaded.get("loaded") != "yes":
        status = "syntax" if loaded.get("loaded") == "syntax" else "crash"
        return status, f"the program raised {Raised(loaded.get('raised'), set()).what}"
    if _lines(printed.decode("utf-8", "replace")) != _lines(job["output"]):
        return "wrong", f"the program printed {printed[:200]!r}"
    return "correct", ""


def _lines(text: str) -> list[str]:
    """Printed text as it is compared: without white space at the ends of lines and without empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _talk(data: bytes, limit: int) -> bytes | None:
    """Write ``data`` to the program and read its output until both are done; None where it is too much."""
    # By fcntl, because os.set_blocking would use ioctl, which the seal does not let through.
    fcntl.fcntl(STDIN, fcntl.F_SETFL, os.O_WRONLY | os.O_NONBLOCK)
    pending, total = memoryview(data), 0
    parts: list[bytes] = []
    if not pending:
        os.close(STDIN)
    while True:
        readable, writable, _ = select.select([STDOUT], [STDIN] if pending else [], [])
        if writable:
            try:
                pending = pending[os.write(STDIN, pending) :]
            except BrokenPipeError:
                pending = pending[:0]
            if not pending:
                os.close(STDIN)
        if readable:
            part = os.read(STDOUT, 1 << 16)
            if not part:
                return b"".join(parts)
            total += len(part)
            if total > limit:
                return None
            parts.append(part)
