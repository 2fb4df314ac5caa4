"""Samples prompts and grades the groups, on the least loaded sampler (by tokens) and verifier (by samples).

Work of a lost actor moves to another one: a group is sampled again with the same seed, or graded again. Prompts that
crash actors are detected and quarantined (``quarantine.py``): their group continues without samples, so that it keeps
its slot and its place in the order, and the learner skips it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray import ObjectRef

from actors.fleet.quarantine import TRAINING, Failure, FailureHistory, Quarantine
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Member
from actors.fleet.worker_pool import WorkerPool
from actors.group import SampleRequest, quarantined_group
from actors.remote_calls import ActorFailure, ActorUnreachable, NodeLost, ObjectLost, call
from actors.settings import DeadlineSettings, SupervisionSettings
from verifiers.task import Prompt

T = TypeVar("T")

_MAX_LOSSES = 10  # how often the object store may lose one group before the run fails


class RolloutPool:
    """Sends each request to the sampler with the fewest tokens in flight, and its group to the least loaded verifier.

    Args:
        samplers, verifiers: all actors that may serve.
        deadlines: seconds for one group (``sample_s``) and for its grading (``verify_s``).
        supervisor: replaces actors that miss a deadline.
        max_samples: most samples in flight, from admission to verdict; None: unlimited.
        quarantine: keeps the quarantined prompts.
        pauses: whether samplers sleep while lost learner ranks are replaced (``shared_cards.py``).
    """

    def __init__(
        self,
        samplers: Sequence[Member],
        verifiers: Sequence[Member],
        deadlines: DeadlineSettings,
        supervisor: Supervisor,
        max_samples: int | None = None,
        quarantine: Quarantine | None = None,
        *,
        pauses: bool = False,
    ) -> None:
        timeout = (
            2 * deadlines.start_s + deadlines.sample_s + deadlines.verify_s,
            "twice deadlines.start_s, deadlines.sample_s and deadlines.verify_s",
        )
        paused = (timeout[0] + deadlines.replacement_s, f"{timeout[1]}, and {deadlines.replacement_key}")
        self.samplers = WorkerPool("sampler", samplers, supervisor.changes, *(paused if pauses else timeout))
        self.verifiers = WorkerPool("verifier", verifiers, supervisor.changes, *timeout)
        self._deadlines = deadlines
        self._supervisor = supervisor
        self._settings: SupervisionSettings = supervisor.settings
        self._budget = _Budget(max_samples)
        self._quarantine = quarantine or Quarantine()
        self._active: set[FailureHistory] = set()
        self._sampling = _BusyClock()
        self.sampled_tokens = 0

    @property
    def quarantined(self) -> int:
        """Training prompts quarantined so far, in this run and before it was resumed."""
        return self._quarantine.count(TRAINING)

    async def deliver(
        self,
        request: SampleRequest,
        prompt: Prompt,
        take: Callable[[ObjectRef], Awaitable[T]],
        purpose: str = TRAINING,
    ) -> T:
        """Apply `take` to the graded group; a group that is lost with its node is sampled again with the same seed.

        Raises:
            ActorFailure: as :meth:`graded_group` and `take`, or if the group was lost too often.
        """
        for _ in range(_MAX_LOSSES):
            group = await self.graded_group(request, prompt, purpose)
            try:
                return await take(group)
            except ObjectLost as error:
                lost = error
        raise _lost_too_often(lost) from lost

    async def graded_group(self, request: SampleRequest, prompt: Prompt, purpose: str = TRAINING) -> ObjectRef:
        """Sample and grade one group; a reference to its record batch.

        Args:
            purpose: what the group is for; quarantined prompts are kept and counted per purpose.

        Raises:
            ActorFailure: if no actor could, or too many prompts were quarantined.
        """
        if self._quarantine.contains(purpose, request.prompt_id):
            self._quarantine.report_skip(purpose, request)
            return self._empty(request)
        history = FailureHistory(request, purpose, self._settings.poison_deaths)
        self._active.add(history)
        try:
            async with self._budget.reserve(request.n):
                graded = await self._retry_until_graded(request, prompt, history)
        finally:
            self._active.discard(history)
        return self._quarantine_prompt(history) if graded is None else graded

    async def _retry_until_graded(
        self, request: SampleRequest, prompt: Prompt, history: FailureHistory
    ) -> ObjectRef | None:
        """The graded group, after retries when actors fail; None if the prompt itself is the cause."""
        group: ObjectRef | None = None
        losses = 0
        while not history.confirmed:
            try:
                if group is None:
                    group = await self._sample(request, history)
                return await self._grade(request, prompt, group, history)
            except ObjectLost as lost:
                group = None
                losses += 1
                if losses == _MAX_LOSSES:
                    raise _lost_too_often(lost) from lost
            except _AttemptMoved:  # the prompt did not cause it
                continue
            except _AttemptFailed as error:
                history.add(error.failure)
        return None

    async def probe(self, request: SampleRequest) -> list[pa.RecordBatch]:
        """A few ungraded tokens from every serving sampler, drawn with its current weights.

        A sampler that fails is checked and left out.
        """
        # deadline: each probe has its own
        found = await asyncio.gather(*(self._probe(m, request) for m in self.samplers.members if m.serving))
        return [batch for batch in found if batch is not None]

    async def _probe(self, sampler: Member, request: SampleRequest) -> pa.RecordBatch | None:
        if not sampler.serving:
            return None  # lost since the caller checked
        tokens, group = sampler.actor().sample_group.options(num_returns=2).remote(request)
        try:
            await self._call(tokens, sampler, to="draw a probe", **self._deadlines.of("sample_s"))
            return await self._call(group, sampler, to="return a probe", **self._deadlines.of("sample_s"))
        except (_AttemptFailed, ObjectLost):
            return None

    def sampling_seconds(self) -> float:
        """Wall time so far in which at least one sampler had work."""
        return self._sampling.seconds()

    async def _sample(self, request: SampleRequest, history: FailureHistory) -> ObjectRef:
        async with self.samplers.borrow(request.max_generated_tokens, history.alone) as sampler:
            with self._sampling:
                tokens: ObjectRef
                group: ObjectRef
                tokens, group = sampler.actor().sample_group.options(num_returns=2).remote(request)
                generated = await self._call(
                    tokens,
                    sampler,
                    to=f"sample prompt {request.prompt_id!r} (position {request.sequence})",
                    **self._deadlines.of("sample_s"),
                )
            self.sampled_tokens += generated  # not in one statement: `x += await ...` reads x before it waits
        return group

    async def _grade(
        self, request: SampleRequest, prompt: Prompt, group: ObjectRef, history: FailureHistory
    ) -> ObjectRef:
        async with self.verifiers.borrow(request.n, history.alone) as verifier:
            done: ObjectRef
            graded: ObjectRef
            done, graded = verifier.actor().grade.options(num_returns=2).remote(group, prompt)
            await self._call(
                done,
                verifier,
                to=f"grade prompt {request.prompt_id!r} (position {request.sequence})",
                **self._deadlines.of("verify_s"),
            )
            return graded

    async def _call(self, ref: ObjectRef, member: Member, *, to: str, deadline_s: float, key: str) -> Any:
        incarnation = member.incarnation
        try:
            return await call(ref, owner=member.name, to=to, deadline_s=deadline_s, key=key)
        except ObjectLost:  # not the fault of the called actor
            raise
        except ActorFailure as failure:
            await self._supervisor.check(member, incarnation, failure)
            lives = member.incarnation == incarnation and member.present  # the call failed, the actor did not
            graceful = isinstance(failure, NodeLost) and failure.graceful
            cut_off = lives and isinstance(failure, ActorUnreachable)  # only the answer is lost
            if graceful or cut_off or self._supervisor.lost_after_notice(member.name, incarnation):
                raise _AttemptMoved(Failure(str(failure), None)) from failure
            loss = None if lives else (member.name, incarnation)
            raise _AttemptFailed(Failure(str(failure), loss, isinstance(failure, NodeLost))) from failure

    def _quarantine_prompt(self, history: FailureHistory) -> ObjectRef:
        self._quarantine.add(history)
        self._supervisor.exempt(history.losses)
        for other in self._active:
            other.clear(history.losses)
        self._supervisor.changes.notify()  # the cleared groups no longer wait for an actor to drain
        count, most = self._quarantine.count(history.purpose), self._settings.max_quarantined
        if count > most:
            raise ActorFailure(
                f"{count} prompts ({history.purpose}) were quarantined, above supervision.max_quarantined = "
                f"{most}; the last one: prompt {history.request.prompt_id!r}: {history.failures[-1].reason}"
            )
        return self._empty(history.request)

    def _empty(self, request: SampleRequest) -> ObjectRef:
        return ray.put(quarantined_group(request).to_record_batch())


class _AttemptFailed(Exception):
    """One attempt to sample or grade a group failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class _AttemptMoved(_AttemptFailed):
    """Its actor was lost with a node that ended after a notice, or moved off that node; or only the answer was lost."""


class _Budget:
    """Limits the samples in flight, first come first served; one group is always admitted, however large."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def reserve(self, n: int) -> AsyncIterator[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((n, turn))
        self._admit()
        try:
            await turn  # deadline: the samples in flight have theirs (sample_s, verify_s), and each frees its part
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._used -= n
            turn.cancel()  # if it still waits
            self._admit()

    def _admit(self) -> None:
        """Admit groups in the order of their arrival while there is room."""
        while self._waiting:
            n, turn = self._waiting[0]
            if not turn.cancelled():
                if self._limit is not None and self._used and self._used + n > self._limit:
                    return
                self._used += n
                turn.set_result(None)
            self._waiting.popleft()


class _BusyClock:
    """Seconds during which at least one of several overlapping activities ran."""

    def __init__(self) -> None:
        self._active = 0
        self._since = 0.0
        self._total = 0.0

    def __enter__(self) -> None:
        if self._active == 0:
            self._since = time.monotonic()
        self._active += 1

    def __exit__(self, *_: object) -> None:
        self._active -= 1
        if self._active == 0:
            self._total += time.monotonic() - self._since

    def seconds(self) -> float:
        running = time.monotonic() - self._since if self._active else 0.0
        return self._total + running


def _lost_too_often(lost: ObjectLost) -> ActorFailure:
    return ActorFailure(f"the object store lost the same group {_MAX_LOSSES} times: {lost}")
