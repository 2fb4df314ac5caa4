"""The actors of one kind that share work: who takes the next piece."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from actors.supervision import ActorFailure, Changes, Member


class Crew:
    """Hands each piece of work to the serving member with the least in hand.

    Args:
        kind: for messages, for example "sampler".
        members: all that may serve, now or later.
        changes: tells when one begins or ceases to serve.
        patience_s: longest wait for a member; restarts and a queue of earlier work lie within it.
    """

    def __init__(self, kind: str, members: Sequence[Member], changes: Changes, patience_s: float) -> None:
        self.members = list(members)
        self._kind = kind
        self._changes = changes
        self._patience_s = patience_s
        self._load: Counter[Member] = Counter()
        self._closed: set[Member] = set()  # kept for one piece of work alone

    @property
    def serving(self) -> int:
        """How many serve now."""
        return sum(member.serving for member in self.members)

    @contextlib.asynccontextmanager
    async def borrow(self, weight: int, *, alone: bool = False) -> AsyncIterator[Member]:
        """A member for a piece of work of size `weight`; with `alone` it does nothing else meanwhile.

        Raises:
            ActorFailure: when none served within the patience.
        """
        member = await self._wait(alone)
        self._load[member] += weight
        try:
            yield member
        finally:
            self._load[member] -= weight
            if alone:
                self._closed.discard(member)
            self._changes.notify()

    async def _wait(self, alone: bool) -> Member:
        chosen: Member | None = None
        try:
            async with asyncio.timeout(self._patience_s):
                while True:
                    open_ones = [m for m in self.members if m.serving and (m is chosen or m not in self._closed)]
                    if chosen not in open_ones:
                        if chosen is not None:
                            self._closed.discard(chosen)
                        chosen = min(open_ones, key=lambda m: self._load[m], default=None)
                        if alone and chosen is not None:
                            self._closed.add(chosen)
                    if chosen is not None and not (alone and self._load[chosen]):
                        return chosen
                    await self._changes.wait()
        except BaseException as error:
            if alone and chosen is not None:
                self._closed.discard(chosen)
            if isinstance(error, TimeoutError):
                raise ActorFailure(f"no {self._kind} was free within {self._patience_s:.0f} s") from None
            raise
