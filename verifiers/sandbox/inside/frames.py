"""Messages of bounded length over a stream: four bytes of length (little-endian), then the body."""

from __future__ import annotations

import os
import struct

_HEAD = struct.Struct("<I")


class FrameError(Exception):
    """The other side sent an invalid frame: too long, or cut off."""


def read_exactly(fd: int, count: int) -> bytes:
    """Read ``count`` bytes; fewer only where the stream ends."""
    parts: list[bytes] = []
    while count > 0:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(fd: int, limit: int) -> bytes | None:
    """The next message, or None at the end of the stream.

    Raises:
        FrameError: Longer than ``limit`` bytes (it is not read), or cut off.
    """
    head = read_exactly(fd, _HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise FrameError("a message was cut off in its length")
    (length,) = _HEAD.unpack(head)
    if length > limit:
        raise FrameError(f"a message of {length} bytes is longer than the {limit} allowed")
    body = read_exactly(fd, length)
    if len(body) < length:
        raise FrameError("a message was cut off")
    return body


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of ``data``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_frame(fd: int, body: bytes) -> None:
    """Write one message."""
    write_all(fd, _HEAD.pack(len(body)) + body)
