"""All learner ranks behind one interface: every call goes to every rank, and rank 0 answers for them.

Ranks are lost and replaced together. New ones load the last checkpoint and train again, from the log of groups, the
steps that came after it; then they do what the lost ones were asked to. On CPUs that gives the lost weights bit by bit,
and no sampler, verifier or queue notices more than the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from ray import ObjectRef

from actors.fleet.supervision import ActorFailure, ActorLost, Supervisor, Unit, call
from actors.settings import DeadlineSettings
from actors.threads import in_daemon_thread
from actors.weights import Published

T = TypeVar("T")

Origin = tuple[int, Path | None]
"""The step of the newest checkpoint and its directory; (0, None): the initial model."""

Probes = asyncio.Task[list[pa.RecordBatch]]
"""Groups that samplers draw only to be compared with the learner."""


class LearnerGroup:
    """The driver's handle on the learner.

    Args:
        unit: the rank actors in rank order.
        supervisor: replaces them.
        deadlines: seconds for start (``start_s``), a step (``learn_s``) and checkpoints (``checkpoint_s``).
        origin: where new ranks begin; asked at every start.
        history: the groups of an earlier step (0: the first), from the log.
    """

    def __init__(
        self,
        unit: Unit,
        supervisor: Supervisor,
        deadlines: DeadlineSettings,
        origin: Callable[[], Origin],
        history: Callable[[int], ObjectRef],
    ) -> None:
        self._unit = unit
        self._supervisor = supervisor
        self._deadlines = deadlines
        self._origin = origin
        self._history = history
        self._last: tuple[int, ObjectRef] | None = None  # the last step's groups, which the log may not hold yet
        # Calls wait for their turn here and not in the ranks: a wait is no part of the deadline, and all ranks get the
        # calls in one order, which collectives lean on.
        self._one_at_a_time = asyncio.Lock()
        self.version: int | None = None  # of the weights that the ranks hold; None before the first start

    async def prepare(self) -> None:
        """Join freshly made ranks in one process group, and bring them to the version that the run has reached."""
        first = self._unit.members[0]
        now = first.incarnation
        address, port = await call(
            first.actor(now).rendezvous.remote(),
            owner=first.name,
            to="start its process",
            **self._deadlines.of("start_s"),
        )
        await self._all(now, lambda rank: rank.start.remote(address, port), to="load the model", limit="start_s")
        step, directory = await in_daemon_thread(
            self._origin, owner="the driver", to="find the last checkpoint", deadline_s=self._deadlines.checkpoint_s
        )
        if directory is not None:
            path = str(directory)
            await self._all(now, lambda rank: rank.load.remote(path, step), to=f"load {path}", limit="checkpoint_s")
        if self.version is None:
            self.version = step
        for again in range(step, self.version):
            await self._train(now, self._groups(again), again)

    async def step(self, groups: ObjectRef, step: int, probes: Probes | None = None) -> dict[str, float]:
        """One optimiser step on the leased `groups`; rank 0's metrics.

        `probes` (see :meth:`RolloutPool.probe`) may still be under way: samplers draw them while the learner computes
        the gradient.
        """
        rows = await self._surely(lambda now: self._train(now, groups, step, probes), to=f"train step {step}")
        self._last = (step, groups)
        self.version = step + 1
        return rows[0]

    async def publish(self, receivers: Sequence[str]) -> tuple[int, Published]:
        """Publish the weights for samplers on the nodes `receivers`; returns the incarnation of the ranks that did.

        The ranks themselves say where they are: they may be replaced on another node while this call waits for them.
        """
        to = "publish its weights"

        async def attempt(now: int) -> tuple[int, Published]:
            answers = await self._all(now, lambda rank: rank.publish.remote(receivers), to=to, limit="broadcast_s")
            return now, answers[0]

        return await self._surely(attempt, to=to)

    async def release(self, incarnation: int, published: Published) -> None:
        """Free what :meth:`publish` made; the supervisor frees what lost ranks published when it ends them."""
        first = self._unit.members[0]
        with contextlib.suppress(ActorLost):  # no reason to wait for a successor
            await call(
                first.actor(incarnation).release.remote(published.payload),
                owner=first.name,
                to="release published weights",
                **self._deadlines.of("broadcast_s"),
            )

    async def save(self, directory: str) -> None:
        """Write a checkpoint of model, optimiser and random state into `directory`."""
        to = f"save {directory}"
        await self._surely(
            lambda now: self._all(now, lambda rank: rank.save.remote(directory), to=to, limit="checkpoint_s"), to=to
        )

    def _groups(self, step: int) -> ObjectRef:
        if self._last is not None and self._last[0] == step:
            return self._last[1]
        return self._history(step)

    async def _train(
        self, now: int, groups: ObjectRef, step: int, probes: Probes | None = None
    ) -> list[dict[str, float]]:
        """Both halves of a step on the ranks of incarnation `now`: a successor has no gradient to update with."""
        gradient, update = f"compute the gradient of step {step}", f"update the weights in step {step}"
        await self._all(now, lambda rank: rank.accumulate.remote(groups, step), to=gradient, limit="learn_s")
        drawn = await probes if probes else []  # deadline: each probe has its own
        return await self._all(now, lambda rank: rank.update.remote(step, drawn), to=update, limit="learn_s")

    async def _surely(self, attempt: Callable[[int], Awaitable[T]], *, to: str) -> T:
        """Make an `attempt` with the ranks of an incarnation, and again when they were lost and replaced meanwhile."""
        while True:
            await self._supervisor.until_serving(self._unit, to=to, deadline_s=self._replacement_s())
            # deadline: the calls of who holds the lock have their own
            async with self._one_at_a_time:
                incarnation = self._unit.members[0].incarnation
                if not self._unit.serving:  # lost while this call waited for its turn
                    continue
                try:
                    return await attempt(incarnation)
                except ActorFailure as failure:
                    caught = failure
            if not await self._lost(incarnation, caught):
                raise caught

    async def _lost(self, incarnation: int, failure: ActorFailure) -> bool:
        """Whether the ranks of `incarnation` are lost.

        The others of a lost rank raise errors of communication, and one on a dying node may raise anything.
        """
        if isinstance(failure, ActorLost):
            for member in self._unit.members:
                self._supervisor.suspect(member, incarnation, failure)
            return True
        settings = self._supervisor.settings
        others_s = settings.hung_s if len(self._unit.members) > 1 else 0.0
        try:
            async with asyncio.timeout(others_s + 3 * settings.heartbeat_s):
                while self._unit.serving and self._unit.members[0].incarnation == incarnation:
                    await self._supervisor.changes.wait()
            return True
        except TimeoutError:
            return False

    def _replacement_s(self) -> float:
        """Longest time for lost ranks to be back: the supervisor's restarts, and training again since a checkpoint."""
        return 4 * self._deadlines.start_s + 10 * self._deadlines.learn_s

    async def _all(self, incarnation: int, method: Callable[[Any], ObjectRef], *, to: str, limit: str) -> list[Any]:
        """Call every rank at once, within the setting `limit`; the first failure ends the wait for all.

        Raises:
            ActorLost: also when the ranks are not those of `incarnation` any more.
        """
        actors = [member.actor(incarnation) for member in self._unit.members]
        calls = [
            call(method(actor), owner=member.name, to=to, **self._deadlines.of(limit))
            for member, actor in zip(self._unit.members, actors, strict=True)
        ]
        # deadline: each call has its own
        return list(await asyncio.gather(*calls))
