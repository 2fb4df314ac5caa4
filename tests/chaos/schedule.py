"""Which blows fall on a long run, and in which order: every kind of process by every way, and blows that overlap."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos import blows

WAYS = ("kill", "stop", "pause", "memory")
# A blow of these costs the longest restarts (an engine that is built anew), so no pair of them comes twice.
DEAR = ("sampler", "engine core", "driver")
IMPOSSIBLE = {
    ("replay queue", "memory"),  # it wants no page for minutes
    ("node watch", "pause"),  # nothing to bear: it only looks
    ("node watch", "memory"),
    ("wandb", "pause"),  # nothing to bear: nobody waits for it
    ("wandb", "memory"),  # as the replay queue
    ("wandb-core", "memory"),
}


@dataclass(frozen=True)
class Strike:
    """A blow, and perhaps a second one that does not wait until the first is mended.

    After a blow at the driver the second falls within a second after training has begun again.
    """

    kind: str
    blow: str
    then: tuple[str, str] | None = None

    @property
    def blows(self) -> int:
        return 1 if self.then is None else 2


OVERLAPS = (
    Strike("driver", "kill", then=("replay queue", "kill")),
    Strike("sampler", "kill", then=("replay queue", "kill")),
    Strike("sampler", "kill", then=("learner", "kill")),
    Strike("learner", "kill", then=("replay queue", "kill")),
    Strike("engine core", "kill", then=("verifier", "kill")),
)


def schedule(kills: int, seed: int) -> list[Strike]:
    """`kills` blows in a seeded order: each kind in each way and each overlap once, then the cheaper kinds again."""
    ways = [way for way in WAYS if way != "memory" or blows.can_exhaust_memory()]
    kinds = [*blows.KINDS, *blows.SANDBOX]
    singles = [Strike(kind, way) for kind in kinds for way in ways if (kind, way) not in IMPOSSIBLE]
    cheap = [strike for strike in singles if strike.kind not in DEAR]
    once = [*singles, *OVERLAPS, Strike("driver", "kill")]
    order = random.Random(seed)
    plan = order.sample(once, len(once))
    while sum(strike.blows for strike in plan) < kills:
        plan += order.sample(cheap, len(cheap))
    chosen: list[Strike] = []
    for strike in plan:
        if sum(s.blows for s in chosen) + strike.blows <= kills:
            chosen.append(strike)
    order.shuffle(chosen)
    return chosen
