"""What the supervisor keeps in service: named actors (members) in units that are started and replaced together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ray.actor import ActorHandle

from actors.process_stats import Heartbeat
from actors.remote_calls import ActorLost, ask_ray


class Reservation(Protocol):
    """Resources that an optional unit reserves before its actor starts.

    Both methods may block, so they are called in a thread.
    """

    def reserve(self) -> bool:
        """Ask the cluster for the resources, once; returns whether it has reserved them."""

    def release(self) -> None:
        """Withdraw the request, or free what was reserved."""


class Changes:
    """Wakes all waiters at a change; each waiter checks its condition again.

    A supervisor has one for the whole fleet: units start and stop serving. Each unit has its own, so that the waiters
    of all other units sleep on.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every change."""
        self._listeners.append(listener)

    def notify(self) -> None:
        """Wake the waiters and call the listeners."""
        self._event.set()
        self._event = asyncio.Event()
        for listener in self._listeners:
            listener()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()  # deadline: every caller has one, or is cancelled with a task that has


@dataclass(eq=False)
class Member:
    """A named actor of the run; `handle` changes when it is replaced."""

    name: str
    spawn: Callable[[int], ActorHandle]  # creates the actor of the given incarnation
    handle: Any = None
    incarnation: int = -1  # 0 for the first actor
    serving: bool = False
    leaving: bool = False  # it moves to another node, so it gets no new requests
    asleep: bool = False  # until its next weight update; it gets no new requests (``shared_cards.py``)
    heartbeat: Heartbeat | None = None  # the last one
    answered_at: float = -math.inf  # when an actor of this name last answered, by a monotonic clock
    failure: str | None = None  # why a caller marked it as failed
    changes: Changes = field(default_factory=Changes)  # those of its unit

    def actor(self, incarnation: int | None = None) -> Any:
        """The actor's handle. Get it again after every `await`, because the actor may have been replaced.

        Args:
            incarnation: the required one; None: any.

        Raises:
            ActorLost: that incarnation is gone.
        """
        if self.handle is None or incarnation not in (None, self.incarnation):
            raise ActorLost(f"{self.name} was lost and is being replaced")
        return self.handle

    @property
    def present(self) -> bool:
        """Whether the actor exists and is not marked as failed; it may still be starting."""
        return self.handle is not None and self.failure is None


@dataclass(eq=False)
class Unit:
    """Members that are started, lost and replaced together.

    Args:
        prepare: brings new members into service (loads a model, the current weights, ...).
        spare: true while the unit is optional: it waits for `reservation`, and its losses do not count.
        reservation: of the resources that it needs while it is optional; None: it needs none.
        busy: true while a move to another node would lose work.
        stateful: a checkpoint ends `busy`, so the run saves one before the unit moves.
        changes: a member was marked as failed, must leave its node, or may leave it now.
    """

    name: str
    members: Sequence[Member]
    prepare: Callable[[], Awaitable[None]]
    spare: Callable[[], bool] = lambda: False
    reservation: Reservation | None = None
    busy: Callable[[], bool] = lambda: False
    stateful: bool = False
    failures: int = 0  # consecutive
    served_since: float = 0.0
    changes: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        for member in self.members:
            member.changes = self.changes

    @property
    def serving(self) -> bool:
        return all(member.serving for member in self.members)

    @property
    def leaving(self) -> bool:
        return any(member.leaving for member in self.members)

    async def reserve(self) -> bool:
        """Ask for the unit's resources; returns whether they are reserved. False if Ray does not answer."""
        if self.reservation is None:
            return True
        return bool(await ask_ray(self.reservation.reserve, to=f"reserve room for {self.name}"))

    async def release(self) -> None:
        """Release the unit's resources. If Ray does not answer, they are freed when the job ends."""
        if self.reservation is not None:
            await ask_ray(self.reservation.release, to=f"release the room of {self.name}")


@dataclass(frozen=True)
class Incident:
    """The loss of a unit, its move to another node, or a notice that a node will be lost.

    unit: name of the unit, or of the node. recovered_s: seconds until it served again (None: not yet). log: the end of
    its log.
    """

    unit: str
    reason: str
    recovered_s: float | None = None
    log: str = ""
    kind: Literal["actor", "move", "node"] = "actor"

    def __str__(self) -> str:
        recovery = "" if self.recovered_s is None else f"; it serves again after {self.recovered_s:.1f} s"
        if self.kind != "actor":
            return f"{self.unit} {self.reason}{recovery}"
        where = self.log.strip().partition("\n")[0].partition(", which ends")[0] if not recovery else ""
        return f"{self.unit} was lost: {self.reason}{recovery}" + (f" ({where})" if where else "")
