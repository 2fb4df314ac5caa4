"""Faults of hosts and of their network, and a seeded plan of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos.hosts.ray_hosts import HEAD, WORKERS


@dataclass(frozen=True)
class HostFault:
    """A fault of one host.

    seconds: how long it lasts; of a notice, until the host is taken away; of a clock, by how much it is wrong.
    """

    kind: str
    host: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}{f' ({self.seconds:g} s)' if self.seconds else ''}"


KILLED = "host killed"
UNPLUGGED, CUT = "cable pulled and put back", "cable pulled for ever"
MUTE, DEAF = "nothing leaves the host", "nothing reaches the host"
SLOW = "200 ms delay, 5 % loss"
FULL, CLOCK, NOTICE = "disk full", "clock wrong", "spot notice"
LOSE_THE_HOST = (KILLED, CUT, NOTICE)

_FIRST, _SECOND = WORKERS
ONCE = (  # about 25 minutes; the order is seeded
    *(HostFault(KILLED, host) for host in (_FIRST, _SECOND, _SECOND, HEAD)),
    *(HostFault(UNPLUGGED, host, 5.0) for host in (_FIRST, _SECOND, HEAD, _FIRST, _SECOND, HEAD)),
    *(HostFault(UNPLUGGED, host, 60.0) for host in (_FIRST, _SECOND, HEAD)),
    *(HostFault(CUT, host) for host in (_FIRST, _SECOND)),
    *(HostFault(MUTE, host, 15.0) for host in (_FIRST, _SECOND, HEAD)),
    *(HostFault(DEAF, host, 15.0) for host in (_FIRST, _SECOND, HEAD)),
    *(HostFault(SLOW, host, 20.0) for host in (_FIRST, _SECOND, HEAD)),
    *(HostFault(FULL, HEAD, 20.0) for _ in range(2)),
    *(HostFault(CLOCK, _SECOND, seconds) for seconds in (3600.0, -3600.0, 0.0)),
    *(HostFault(NOTICE, host, 30.0) for host in (_FIRST, _SECOND)),
)


def plan(count: int, seed: int) -> list[HostFault]:
    """`count` faults in a seeded order; all of :data:`ONCE` before one of them comes again."""
    order = random.Random(seed)
    chosen: list[HostFault] = []
    while len(chosen) < count:
        chosen += order.sample(ONCE, len(ONCE))
    return chosen[:count]
