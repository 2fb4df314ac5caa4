"""Counts the restarts of a run against ``supervision.max_restarts``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from actors.fleet.units import Incident, Unit
from actors.remote_calls import ActorFailure


class Restarts:
    """How often units were replaced, and which of these losses count."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._counted: set[tuple[str, int]] = set()  # losses (unit, incarnation)
        self.of: Counter[str] = Counter()  # all restarts, by unit

    def exempt(self, losses: Collection[tuple[str, int]]) -> None:
        """Do not count these losses (actor, incarnation)."""
        self._counted.difference_update(losses)

    def add(self, unit: Unit, reason: str, log: str, incidents: Iterable[Incident], *, counts: bool) -> None:
        """Count a restart of `unit`.

        Raises:
            ActorFailure: the run has used up its restarts; the message has the last `incidents`.
        """
        if counts and len(self._counted) >= self._allowed:
            failure = ActorFailure(self._exit_message(unit, reason, incidents))
            failure.log = log
            raise failure
        self.of[unit.name] += 1
        if counts:
            self._counted.add((unit.name, unit.members[0].incarnation))

    def _exit_message(self, unit: Unit, reason: str, incidents: Iterable[Incident]) -> str:
        lost = f"{unit.name} was lost: {reason}"
        if self._allowed == 0:
            return f"{lost} (supervision.max_restarts is 0)"
        used_up = f"the run has used up its {self._allowed} restarts (supervision.max_restarts); the last:"
        return "\n".join([lost, used_up, *(f"  {incident}" for incident in incidents)])
