"""Prompts that make actors fail: who is suspected, how a suspect is told from its neighbours, and who is given up.

An actor that dies takes all groups that it had in hand with it, and any of them may be the reason. A group that was in
hand at almost all of the failures that are allowed is a suspect: at its next try the actor has at most a quarter as
many in hand as before, then a quarter of that, and so on. A prompt is given up only after a failure with nothing beside
it, and then whoever was near when it failed is cleared of those failures. So of n groups in hand, one of which is
poison, log4(n) more failures find it, and the others run in four crowds for each, not one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.fleet.worker_pool import ANY
from actors.group import SampleRequest

TRAINING = "training"
_FEWER = 4  # times less company after each failure of a suspect

Loss = tuple[str, int]  # an actor's name and which incarnation of it was lost


@dataclass(frozen=True)
class Failure:
    """One failure with a group in hand.

    loss: the actor that was lost by it; None when the call failed and the actor lives.
    company: groups that it had in hand at most meanwhile, this one included.
    """

    reason: str
    loss: Loss | None
    company: int


@dataclass(eq=False)
class Suspicion:
    """The failures that happened with one group in hand.

    Args:
        purpose: "training", or what else the group is for.
        poison_deaths: see the settings of the section `supervision`.
    """

    request: SampleRequest
    purpose: str
    poison_deaths: int
    failures: list[Failure] = field(default_factory=list)

    def crowd(self) -> int:
        """How many groups an actor may have in hand with this one, itself included, at its next try."""
        if not self.failures or len(self.failures) < self.poison_deaths - 1:
            return ANY
        return max(1, -(-min(failure.company for failure in self.failures) // _FEWER))

    @property
    def proved(self) -> bool:
        """It failed often enough, and the last time by itself."""
        return len(self.failures) >= self.poison_deaths and self.failures[-1].company == 1

    @property
    def losses(self) -> set[Loss]:
        """The actors that were lost with it in hand."""
        return {failure.loss for failure in self.failures if failure.loss is not None}

    def clear(self, losses: set[Loss]) -> None:
        """Another was the reason of these."""
        self.failures = [failure for failure in self.failures if failure.loss not in losses]


class Quarantine:
    """The prompts that were given up, by purpose and id, so that none is tried again in a later epoch.

    This one keeps them in memory; a run keeps them in its directory (``cluster/telemetry/incidents.py``).
    """

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def holds(self, purpose: str, prompt_id: str) -> bool:
        """Whether that prompt was given up earlier."""
        return (purpose, prompt_id) in self._known

    def count(self, purpose: str) -> int:
        """Prompts given up so far."""
        return sum(kind == purpose for kind, _ in self._known)

    def add(self, suspicion: Suspicion) -> None:
        """Give up a prompt, for the reasons that `suspicion` holds."""
        self._known.add((suspicion.purpose, suspicion.request.prompt_id))

    def met_again(self, purpose: str, request: SampleRequest) -> None:
        """A later group of a prompt that was given up is set aside untried."""
