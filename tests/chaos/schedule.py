"""Which faults a campaign injects, and in which order: every kind in every way, and faults that overlap."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos import faults

WAYS = ("kill", "stop", "pause", "memory")
# Their restarts take longest (vLLM builds a new engine), so each of these faults comes once.
SLOW = ("sampler", "engine core", "driver")
IMPOSSIBLE = {
    ("replay queue", "memory"),  # it allocates no page for minutes
    ("node monitor", "pause"),  # nothing waits for it
    ("node monitor", "memory"),
    ("wandb", "pause"),  # nothing waits for it
    ("wandb", "memory"),  # as for the replay queue
    ("wandb-core", "memory"),
}


@dataclass(frozen=True)
class Fault:
    """A fault, and perhaps a second one before the run has recovered from the first.

    After a fault of the driver the second one comes within a second after training has begun again.
    """

    kind: str
    way: str
    then: tuple[str, str] | None = None

    @property
    def count(self) -> int:
        return 1 if self.then is None else 2


OVERLAPS = (
    Fault("driver", "kill", then=("replay queue", "kill")),
    Fault("sampler", "kill", then=("replay queue", "kill")),
    Fault("sampler", "kill", then=("learner", "kill")),
    Fault("learner", "kill", then=("replay queue", "kill")),
    Fault("engine core", "kill", then=("verifier", "kill")),
)


def schedule(count: int, seed: int) -> list[Fault]:
    """`count` faults in a seeded order: each kind in each way and each overlap once, then the faster kinds again."""
    ways = [way for way in WAYS if way != "memory" or faults.can_exhaust_memory()]
    kinds = [*faults.KINDS, *faults.SANDBOX]
    singles = [Fault(kind, way) for kind in kinds for way in ways if (kind, way) not in IMPOSSIBLE]
    fast = [fault for fault in singles if fault.kind not in SLOW]
    once = [*singles, *OVERLAPS, Fault("driver", "kill")]
    order = random.Random(seed)
    plan = order.sample(once, len(once))
    while sum(fault.count for fault in plan) < count:
        plan += order.sample(fast, len(fast))
    chosen: list[Fault] = []
    for fault in plan:
        if sum(one.count for one in chosen) + fault.count <= count:
            chosen.append(fault)
    order.shuffle(chosen)
    return chosen
