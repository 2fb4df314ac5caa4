"""Finding prompts that crash actors.

A crash implicates every group in flight on that actor. A group that was present at `supervision.poison_deaths` failures
is retried alone. If that fails too, its prompt is quarantined, and the groups that were in flight with it earlier are
cleared of those failures. Losses with a whole node do not count, unless they happen to the same group repeatedly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.group import SampleRequest

TRAINING = "training"

Loss = tuple[str, int]  # name and incarnation of an actor that was lost


@dataclass(frozen=True)
class Failure:
    """One failure while a group was in flight.

    loss: the actor that was lost; None if the call failed and the actor lives.
    with_node: the actor was lost with its node.
    """

    reason: str
    loss: Loss | None
    with_node: bool = False


@dataclass(eq=False)
class FailureHistory:
    """The failures that happened while one group was in flight.

    Args:
        purpose: "training" or "evaluation".
        poison_deaths: see the settings of the section `supervision`.
    """

    request: SampleRequest
    purpose: str
    poison_deaths: int
    failures: list[Failure] = field(default_factory=list)
    node_losses: int = 0  # that did not count as failures

    def add(self, failure: Failure) -> None:
        """Count a failure. Losses of nodes count after `poison_deaths` of them: a prompt may crash its whole node."""
        if failure.with_node and self.node_losses < self.poison_deaths:
            self.node_losses += 1
        else:
            self.failures.append(failure)

    def alone(self) -> bool:
        """Whether no other group may be in flight on the actor of the next attempt."""
        return len(self.failures) >= self.poison_deaths

    @property
    def confirmed(self) -> bool:
        """Whether the prompt is the cause: the last attempt, made alone, failed too."""
        return len(self.failures) > self.poison_deaths

    @property
    def losses(self) -> set[Loss]:
        """The actors that were lost while the group was in flight."""
        return {failure.loss for failure in self.failures if failure.loss is not None}

    def clear(self, losses: set[Loss]) -> None:
        """Remove the failures that another group caused."""
        self.failures = [failure for failure in self.failures if failure.loss not in losses]


class Quarantine:
    """The quarantined prompts, by purpose and id, so that later epochs skip them.

    This class keeps them in memory; a run keeps them in its directory (``cluster/telemetry/incidents.py``).
    """

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def contains(self, purpose: str, prompt_id: str) -> bool:
        """Whether the prompt is quarantined."""
        return (purpose, prompt_id) in self._known

    def count(self, purpose: str) -> int:
        """Number of quarantined prompts."""
        return sum(kind == purpose for kind, _ in self._known)

    def add(self, history: FailureHistory) -> None:
        """Quarantine the prompt of `history`."""
        self._known.add((history.purpose, history.request.prompt_id))

    def report_skip(self, purpose: str, request: SampleRequest) -> None:
        """A later group of a quarantined prompt is skipped."""
