"""The driver's handle on all learner ranks: every call goes to every rank, and rank 0's answer is returned.

Ranks are lost and replaced together. Replacements load the last checkpoint, train the later steps again from the group
log, and then retry the interrupted call. On CPUs this restores the lost weights bit by bit; samplers, verifiers and the
queue only wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from ray import ObjectRef

from actors.fleet.shared_cards import Cards
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Unit
from actors.remote_calls import ActorFailure, ActorLost, call
from actors.settings import DeadlineSettings
from actors.threads import in_daemon_thread
from actors.weights import Destination, Published

T = TypeVar("T")

Origin = tuple[int, Path | None]
"""The step of the newest checkpoint and its directory; (0, None): the initial model."""

SLEEP_SECONDS = "sync/sleep_seconds"
"""The metric of the seconds in which samplers freed the memory of shared GPUs."""
LEARNER_SLEEP_SECONDS = "sync/learner_sleep_seconds"
"""The metric of the seconds in which the ranks moved their states to host memory and back."""

Probes = asyncio.Task[list[pa.RecordBatch]]
"""Groups sampled only to compare samplers with the learner."""


def moving_seconds(row: Mapping[str, float]) -> float:
    """Seconds of the step with the metrics `row` in which samplers and ranks freed memory of shared GPUs."""
    return sum(row.get(name, 0.0) for name in (SLEEP_SECONDS, LEARNER_SLEEP_SECONDS))


class LearnerGroup:
    """The driver's handle on the learner.

    Args:
        unit: the rank actors in rank order.
        supervisor: replaces them.
        deadlines: seconds for start (``start_s``), a step (``learn_s``) and checkpoints (``checkpoint_s``).
        origin: the checkpoint from which new ranks start; called at every start.
        history: the groups of an earlier step (0: the first), from the group log; called in a thread, because it reads
            a file.
        cards: the GPUs of the ranks, and who may change their memory.
        sleeps: whether the ranks move their states to host memory while samplers work (``learner.sleep``).
    """

    def __init__(
        self,
        unit: Unit,
        supervisor: Supervisor,
        deadlines: DeadlineSettings,
        origin: Callable[[], Origin],
        history: Callable[[int], ObjectRef],
        cards: Cards | None = None,
        *,
        sleeps: bool = False,
    ) -> None:
        self._unit = unit
        self._supervisor = supervisor
        self._deadlines = deadlines
        self._origin = origin
        self._history = history
        self._cards = cards or Cards()
        self._sleeps = sleeps
        self._last: tuple[int, ObjectRef] | None = None  # the last step's groups, which may not be in the log yet
        # Calls queue here and not in the ranks: waiting does not count against the deadline, and all ranks get them in
        # the same order, which collectives require.
        self._lock = asyncio.Lock()
        self.version: int | None = None  # of the ranks' weights; None before the first start
        self._saved: int | None = None  # version in the newest checkpoint
        self.training = False  # a step is under way, perhaps on ranks that are being replaced

    @property
    def unsaved(self) -> bool:
        """Whether new ranks would have to train steps again."""
        return self.version != self._saved

    @property
    def incarnation(self) -> int:
        """The incarnation of the ranks, which may still be starting."""
        return self._unit.members[0].incarnation

    async def prepare(self) -> None:
        """Join new ranks in one process group and bring them to the run's current weight version."""
        incarnation = self.incarnation
        async with self._cards.learner_turn(self._unit.members, incarnation, to="start"):
            await self._start(incarnation)

    async def _start(self, incarnation: int) -> None:
        first = self._unit.members[0]
        address, port = await call(
            first.actor(incarnation).rendezvous.remote(),
            owner=first.name,
            to="start its process",
            **self._deadlines.of("start_s"),
        )
        if self._sleeps:  # loading needs room for the states, which engines use while ranks sleep
            await self._cards.sleep()
        await self._all(
            incarnation, lambda rank: rank.start.remote(address, port), to="load the model", limit="start_s"
        )
        step, directory = await in_daemon_thread(
            self._origin, owner="the driver", to="find the last checkpoint", deadline_s=self._deadlines.checkpoint_s
        )
        if directory is not None:
            path = str(directory)
            to = f"load {path}"
            await self._all(incarnation, lambda rank: rank.load.remote(path, step), to=to, limit="checkpoint_s")
        self._saved = step
        if self.version is None:
            self.version = step
        if step < self.version:
            await self._cards.sleep()
        for earlier in range(step, self.version):
            await self._train(incarnation, await self._groups(earlier), earlier)
        await self._sleep(incarnation)

    async def step(self, groups: ObjectRef, step: int, probes: Probes | None = None) -> dict[str, float]:
        """One optimizer step on the leased `groups`; returns rank 0's metrics.

        Samplers on the same GPUs sleep from then on until the next weight update; the metrics have the seconds that
        this took, and those in which sleeping ranks woke up and fell asleep again.

        `probes` (see :meth:`RolloutPool.probe`) may still be running: samplers draw them while the learner computes the
        gradient.
        """

        async def attempt(incarnation: int) -> list[dict[str, float]]:
            seconds = {SLEEP_SECONDS: await self._cards.sleep(), LEARNER_SLEEP_SECONDS: await self._wake(incarnation)}
            first, *others = await self._train(incarnation, groups, step, probes)
            seconds[LEARNER_SLEEP_SECONDS] += await self._sleep(incarnation)
            return [first | {name: value for name, value in seconds.items() if value}, *others]

        self.training = True
        try:
            rows = await self._retry_until_done(attempt, to=f"train step {step}")
        finally:
            self.training = False
        self._last = (step, groups)
        self.version = step + 1
        return rows[0]

    async def publish(self, receivers: Sequence[Destination], starting: int | None = None) -> tuple[int, Published]:
        """Publish the weights for the samplers `receivers`; returns the publishing ranks' incarnation too.

        The ranks report their own node, because they may be replaced on another one while this call waits.

        Args:
            starting: incarnation of ranks that are being prepared; if they fail, successors do not publish instead.
        """
        to = "publish its weights"

        async def attempt(incarnation: int) -> tuple[int, Published]:
            answers = await self._all(incarnation, lambda r: r.publish.remote(receivers), to=to, limit="broadcast_s")
            return incarnation, answers[0]

        if starting is not None:
            async with self._cards.learner_turn(self._unit.members, starting, to=to):
                return await attempt(starting)
        return await self._retry_until_done(attempt, to=to)

    async def release(self, incarnation: int, published: Published) -> None:
        """Free what :meth:`publish` made; the supervisor frees what lost ranks published when it kills them."""
        first = self._unit.members[0]
        with contextlib.suppress(ActorLost):  # no reason to wait for a successor
            await call(
                first.actor(incarnation).release.remote(published.payload),
                owner=first.name,
                to="release published weights",
                **self._deadlines.of("broadcast_s"),
            )

    async def save(self, directory: str) -> None:
        """Write a checkpoint of model, optimizer and random state into `directory`."""
        to = f"save {directory}"
        await self._retry_until_done(
            lambda incarnation: self._all(
                incarnation, lambda rank: rank.save.remote(directory), to=to, limit="checkpoint_s"
            ),
            to=to,
        )
        self._saved = self.version
        self._unit.changes.notify()  # the ranks may move now

    async def _groups(self, step: int) -> ObjectRef:
        if self._last is not None and self._last[0] == step:
            return self._last[1]
        return await in_daemon_thread(
            partial(self._history, step),
            owner="the driver",
            to=f"read the groups of step {step + 1} again (see deadlines.checkpoint_s)",
            deadline_s=self._deadlines.checkpoint_s,
        )

    async def _train(
        self, incarnation: int, groups: ObjectRef, step: int, probes: Probes | None = None
    ) -> list[dict[str, float]]:
        """Both halves of a step, on one incarnation of the ranks, because a replacement does not have the gradient."""
        gradient, update = f"compute the gradient of step {step}", f"update the weights in step {step}"
        await self._all(incarnation, lambda rank: rank.accumulate.remote(groups, step), to=gradient, limit="learn_s")
        probed = await probes if probes else []  # deadline: each probe has its own
        return await self._all(incarnation, lambda rank: rank.update.remote(step, probed), to=update, limit="learn_s")

    async def _wake(self, incarnation: int) -> float:
        return await self._move(incarnation, lambda rank: rank.wake.remote(), to="bring its states back to the GPU")

    async def _sleep(self, incarnation: int) -> float:
        return await self._move(incarnation, lambda rank: rank.sleep.remote(), to="move its states to host memory")

    async def _move(self, incarnation: int, method: Callable[[Any], ObjectRef], *, to: str) -> float:
        """Move the ranks' states if they sleep at all; returns the seconds it took.

        Raises:
            ActorLost: also if a rank raised, because it is not known where its states are.
        """
        if not self._sleeps:
            return 0.0
        began = time.monotonic()
        try:
            await self._all(incarnation, method, to=f"{to} (learner.sleep)", limit="learn_s")
        except ActorLost:
            raise
        except ActorFailure as failure:
            raise ActorLost(str(failure)) from failure
        return time.monotonic() - began

    async def _retry_until_done(self, attempt: Callable[[int], Awaitable[T]], *, to: str) -> T:
        """Call `attempt` with the current incarnation of the ranks; retry if they are lost and replaced meanwhile."""
        while True:
            limit_s, key = self._deadlines.replacement_s, self._deadlines.replacement_key
            await self._supervisor.until_serving(self._unit, to=to, deadline_s=limit_s, key=key)
            # deadline: the calls of the lock's holder have their own
            async with self._lock:
                incarnation = self._unit.members[0].incarnation
                if not self._unit.serving:  # lost while this call waited for the lock
                    continue
                try:
                    async with self._cards.learner_turn(self._unit.members, incarnation, to=to):
                        return await attempt(incarnation)
                except ActorFailure as failure:
                    caught = failure
            if not await self._lost(incarnation, caught):
                raise caught

    async def _lost(self, incarnation: int, failure: ActorFailure) -> bool:
        """Whether the ranks of `incarnation` are lost.

        When one rank is lost the others raise communication errors, and a rank on a dying node may raise any error.
        """
        if isinstance(failure, ActorLost):
            for member in self._unit.members:
                self._supervisor.mark_failed(member, incarnation, failure)
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

    async def _all(self, incarnation: int, method: Callable[[Any], ObjectRef], *, to: str, limit: str) -> list[Any]:
        """Call every rank concurrently within the deadline `limit`; the first failure ends the wait for all.

        Raises:
            ActorLost: a rank was lost, or the ranks are no longer those of `incarnation`.
        """
        actors = [member.actor(incarnation) for member in self._unit.members]
        calls = [
            call(method(actor), owner=member.name, to=to, **self._deadlines.of(limit))
            for member, actor in zip(self._unit.members, actors, strict=True)
        ]
        # deadline: each call has its own
        return list(await asyncio.gather(*calls))
