"""Judging a program by what it prints for one input."""

from __future__ import annotations

import os
from typing import Any

from . import comparison, frames
from .candidate_exceptions import ProgramException, text_of
from .channel import Channel, ChannelLost, report

STDIN, STDOUT = 5, 6


def judge(job: dict[str, Any], channel: Channel) -> tuple[str, str]:
    """Give the program its input, collect what it prints up to the limit, and compare here; status and detail."""
    try:
        # Before the program, which starts once it is there.
        frames.write_all(STDIN, job["input"].encode("utf-8", "surrogatepass"))
        os.close(STDIN)
        channel.send(job["program"].encode("utf-8", "surrogatepass"))
        # An output may always be as long as the expected one.
        limit = max(channel.reply_limit, 2 * len(job["output"].encode("utf-8", "surrogatepass")))
        printed = _printed(limit)
        if printed is None:
            return "wrong", f"the program printed more than {limit} bytes"
        channel.calls, channel.program_used = 1, True
        try:
            loaded = channel.receive()
        except ChannelLost:
            # It ended itself; what it printed counts if its exit status, which the client learns, is 0.
            report(ended=True)
            loaded = {"loaded": "yes"}
    except ChannelLost as error:
        return "crash", str(error)
    state = loaded.get("loaded")
    if state == "ended":
        status = loaded.get("status")
        words = text_of(loaded.get("raised"), "text")
        return "crash", f"its exit status is {status if type(status) is int else '?'}{f' ({words})' if words else ''}"
    if state != "yes":
        status = "syntax" if state == "syntax" else "crash"
        return status, f"the program raised {ProgramException(loaded.get('raised'), set()).what}"
    if not comparison.same(printed.decode("utf-8", "replace"), job["output"], job["tolerance"]):
        return "wrong", f"the program printed {printed[:200]!r}"
    return "correct", ""


def _printed(limit: int) -> bytes | None:
    """Read what the program prints until its end; None if it is too long."""
    parts: list[bytes] = []
    total = 0
    while part := os.read(STDOUT, 1 << 16):
        total += len(part)
        if total > limit:
            return None
        parts.append(part)
    return b"".join(parts)
