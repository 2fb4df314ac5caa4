"""The actors of one kind that share work: who takes the next piece, and how many it may have in hand beside it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from actors.fleet.supervision import Changes, Member
from actors.remote_calls import ActorFailure, within

ANY = sys.maxsize  # a crowd without a limit


@dataclass(eq=False)
class Piece:
    """One piece of work.

    crowd: the most pieces that its member may have in hand with it, itself included; asked again at every change.
    member: has it in hand, or is to have it next (None: nobody yet).
    company: the most pieces that its member had in hand with it so far, itself included.
    """

    weight: int
    crowd: Callable[[], int]
    member: Member | None = None
    company: int = 0


class WorkerPool:
    """Hands each piece of work to the serving member with the least in hand.

    Args:
        kind: for messages, for example "sampler".
        members: all that may serve, now or later.
        changes: tells when one begins or ceases to serve.
        patience_s: longest wait of a piece since the last one ended; a restart lies within it.
        key: the settings that `patience_s` comes from, for the message.
    """

    def __init__(
        self, kind: str, members: Sequence[Member], changes: Changes, patience_s: float, key: str | None = None
    ) -> None:
        self.members = list(members)
        self._kind = kind
        self._changes = changes
        self._patience_s = patience_s
        self._key = key
        self._hands: defaultdict[Member, list[Piece]] = defaultdict(list)
        # Pieces for which a member has too much in hand. It takes no others meanwhile, so that their turn comes.
        self._claims: defaultdict[Member, list[Piece]] = defaultdict(list)
        self._last_end = time.monotonic()

    @property
    def serving(self) -> int:
        """How many serve now."""
        return sum(member.serving for member in self.members)

    @contextlib.asynccontextmanager
    async def borrow(
        self, weight: int, crowd: Callable[[], int] = lambda: ANY
    ) -> AsyncIterator[tuple[Member, Callable[[], int]]]:
        """A member for a piece of work of size `weight`, with at most `crowd` pieces in hand, this one included.

        Yields:
            the member, and a function that tells how many it had in hand with this one at most.

        Raises:
            ActorFailure: when none was free, and no piece ended, within the patience.
        """
        piece = Piece(weight, crowd)
        member = await self._wait(piece)
        try:
            yield member, lambda: piece.company
        finally:
            self._hands[member].remove(piece)
            self._last_end = time.monotonic()
            self._changes.notify()

    async def _wait(self, piece: Piece) -> Member:
        began = time.monotonic()
        try:
            while True:
                member = self._place(piece)
                if member is not None:
                    return member
                left = max(began, self._last_end) + self._patience_s - time.monotonic()
                if left <= 0:
                    raise ActorFailure(f"no {self._kind} was free within {within(self._patience_s, self._key)}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changes.wait()
        finally:
            self._withdraw(piece)

    def _place(self, piece: Piece) -> Member | None:
        """Put `piece` into the hand of the least loaded member that may take it; if none may, it claims one."""
        serving = [member for member in self.members if member.serving]
        free = [member for member in serving if self._may_take(member, piece)]
        if free:
            self._withdraw(piece)
            piece.member = min(free, key=self._load)
            hand = self._hands[piece.member]
            hand.append(piece)
            for other in hand:
                other.company = max(other.company, len(hand))
            return piece.member
        if piece.crowd() == ANY:
            self._withdraw(piece)
        elif piece.member not in serving:
            self._withdraw(piece)
            piece.member = min(serving, key=lambda m: (len(self._claims[m]), self._load(m)), default=None)
            if piece.member is not None:
                self._claims[piece.member].append(piece)
        return None

    def _may_take(self, member: Member, piece: Piece) -> bool:
        hand, claims = self._hands[member], self._claims[member]
        turn = not claims or claims[0] is piece
        return turn and len(hand) < min(one.crowd() for one in [piece, *hand])

    def _load(self, member: Member) -> int:
        return sum(piece.weight for piece in self._hands[member])

    def _withdraw(self, piece: Piece) -> None:
        """Give up the claim of `piece`, if it has one."""
        if piece.member is not None and piece in self._claims[piece.member]:
            self._claims[piece.member].remove(piece)
            piece.member = None
            self._changes.notify()
