"""All learner ranks behind one interface: every call goes to every rank, and rank 0 answers for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import ObjectRef

from actors.settings import DeadlineSettings
from actors.supervision import Member, call


class LearnerGroup:
    """The driver's handle on the learner.

    Args:
        ranks: the rank actors in rank order.
        deadlines: seconds for start (``start_s``), a step (``learn_s``) and checkpoints (``checkpoint_s``).
    """

    def __init__(self, ranks: Sequence[Member], deadlines: DeadlineSettings) -> None:
        self.ranks = list(ranks)
        self._deadlines = deadlines

    async def start(self) -> None:
        """Load the model on every rank and join them in one process group."""
        first = self.ranks[0]
        address, port = await call(
            first.handle.rendezvous.remote(),
            owner=first.name,
            to="start its process",
            deadline_s=self._deadlines.start_s,
        )
        await self.all("start", address, port, to="load the model", deadline_s=self._deadlines.start_s)

    async def step(self, groups: ObjectRef, step: int) -> dict[str, float]:
        """One optimiser step on the leased `groups`; rank 0's metrics."""
        rows = await self.all("step", groups, step, to=f"train step {step}", deadline_s=self._deadlines.learn_s)
        return rows[0]

    async def save(self, directory: str) -> None:
        """Write a checkpoint of model, optimiser and random state into `directory`."""
        await self.all("save", directory, to=f"save {directory}", deadline_s=self._deadlines.checkpoint_s)

    async def load(self, directory: str) -> None:
        """Read a checkpoint back."""
        await self.all("load", directory, to=f"load {directory}", deadline_s=self._deadlines.checkpoint_s)

    async def all(self, method: str, *arguments: Any, to: str, deadline_s: float) -> list[Any]:
        """Call `method` on every rank at once; the first failure ends the wait for all of them."""
        calls = [
            call(getattr(m.handle, method).remote(*arguments), owner=m.name, to=to, deadline_s=deadline_s)
            for m in self.ranks
        ]
        return list(await asyncio.gather(*calls))
