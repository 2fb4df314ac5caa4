"""A network link that delays and loses frames: two network devices, between which this process carries Ethernet frames.

    python -m tests.chaos.hosts.lossy_link DEVICE DEVICE --delay 0.2 --loss 0.05 0.05

The kernel's own emulation (netem) is missing on many machines; TUN/TAP devices are not. Frames keep their order.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import select
import struct
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_LARGEST_FRAME = 1 << 16
_IDLE_S = 1.0


def tap(name: str) -> int:
    """A new network device; its file descriptor reads and writes whole frames."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


def forward_frames(ends: tuple[int, int], delay_s: float, loss: tuple[float, float]) -> None:
    """Carry frames between `ends` until this process is killed; `loss` is the share lost from the first and second."""
    held: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}  # (due, frame) by the end that gets it
    while True:
        now = time.monotonic()
        due = min((frames[0][0] for frames in held.values() if frames), default=now + _IDLE_S)
        readable, _, _ = select.select(ends, [], [], max(0.0, due - now))
        for end in readable:
            other = ends[1 - ends.index(end)]
            for frame in _waiting(end):
                if random.random() >= loss[ends.index(end)]:
                    held[other].append((time.monotonic() + delay_s, frame))
        now = time.monotonic()
        for end, frames in held.items():
            while frames and frames[0][0] <= now:
                _send(end, frames.popleft()[1])


def _waiting(end: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < 256:
        try:
            frames.append(os.read(end, _LARGEST_FRAME))
        except BlockingIOError:
            break
    return frames


def _send(end: int, frame: bytes) -> None:
    try:
        os.write(end, frame)
    except OSError:  # the device is down or its queue is full: a cable loses such frames too
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", nargs=2)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, in each direction")
    parser.add_argument(
        "--loss", type=float, nargs=2, default=(0.0, 0.0), help="share of frames, by the end they enter"
    )
    options = parser.parse_args()
    first, second = (tap(name) for name in options.devices)
    print("ready", flush=True)
    forward_frames((first, second), options.delay, tuple(options.loss))


if __name__ == "__main__":
    main()
