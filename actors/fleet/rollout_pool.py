"""Which sampler samples which prompt, and which verifier grades it: the least loaded, by tokens and by samples.

What a lost actor had in hand is given to another: a group that was being sampled is sampled again with the same seed,
one that was being graded is graded again. A prompt that makes actors fail is found and quarantined
(``quarantine.py``): the group goes on without samples, so that its slot and its place in the order stay what they were,
and the learner skips it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray import ObjectRef

from actors.fleet.quarantine import TRAINING, Failure, Quarantine, Suspicion
from actors.fleet.supervision import Member, Supervisor
from actors.fleet.worker_pool import WorkerPool
from actors.group import SampleRequest, quarantined_group
from actors.remote_calls import ActorFailure, ObjectLost, call
from actors.settings import DeadlineSettings, SupervisionSettings
from verifiers.task import Prompt

T = TypeVar("T")

_LOST_GROUPS = 10  # times that the object store may lose one group, and it is sampled again


class RolloutPool:
    """Gives each request to the sampler with the fewest tokens in flight, and its group to the idlest verifier.

    Args:
        samplers, verifiers: all actors that may serve.
        deadlines: seconds for one group (``sample_s``) and for its grading (``verify_s``).
        supervisor: is told of members that miss a deadline.
        max_samples: samples in flight at once, from admission to verdict; None: no bound here.
        quarantine: keeps the prompts that are given up.
    """

    def __init__(
        self,
        samplers: Sequence[Member],
        verifiers: Sequence[Member],
        deadlines: DeadlineSettings,
        supervisor: Supervisor,
        max_samples: int | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        patience = (
            2 * deadlines.start_s + deadlines.sample_s + deadlines.verify_s,
            "twice deadlines.start_s, deadlines.sample_s and deadlines.verify_s",
        )
        self.samplers = WorkerPool("sampler", samplers, supervisor.changes, *patience)
        self.verifiers = WorkerPool("verifier", verifiers, supervisor.changes, *patience)
        self._deadlines = deadlines
        self._supervisor = supervisor
        self._settings: SupervisionSettings = supervisor.settings
        self._budget = _Budget(max_samples)
        self._quarantine = quarantine or Quarantine()
        self._under_way: set[Suspicion] = set()
        self._sampling = _BusyClock()
        self.sampled_tokens = 0

    @property
    def quarantined(self) -> int:
        """Training prompts given up so far, in this run and before it was resumed."""
        return self._quarantine.count(TRAINING)

    async def deliver(
        self,
        request: SampleRequest,
        prompt: Prompt,
        take: Callable[[ObjectRef], Awaitable[T]],
        purpose: str = TRAINING,
    ) -> T:
        """What `take` makes of the graded group; one that its node takes along before is sampled again, same seed.

        Raises:
            ActorFailure: as :meth:`graded_group` and `take`, or when the group was lost again and again.
        """
        for _ in range(_LOST_GROUPS):
            group = await self.graded_group(request, prompt, purpose)
            try:
                return await take(group)
            except ObjectLost as error:
                lost = error
        raise _lost_too_often(lost) from lost

    async def graded_group(self, request: SampleRequest, prompt: Prompt, purpose: str = TRAINING) -> ObjectRef:
        """Sample and grade one group; a reference to its record batch.

        Args:
            purpose: what the group is for; prompts that had to be given up are remembered and counted by it.

        Raises:
            ActorFailure: when nobody could, or too many prompts had to be given up.
        """
        if self._quarantine.holds(purpose, request.prompt_id):
            self._quarantine.met_again(purpose, request)
            return self._empty(request)
        suspicion = Suspicion(request, purpose, self._settings.poison_deaths)
        self._under_way.add(suspicion)
        try:
            async with self._budget.of(request.n):
                graded = await self._insist(request, prompt, suspicion)
        finally:
            self._under_way.discard(suspicion)
        return self._give_up(suspicion) if graded is None else graded

    async def _insist(self, request: SampleRequest, prompt: Prompt, suspicion: Suspicion) -> ObjectRef | None:
        """The graded group, though actors fail; None when the prompt proves to be the reason."""
        group: ObjectRef | None = None
        lost_groups = 0
        while not suspicion.proved:
            try:
                if group is None:
                    group = await self._sample(request, suspicion)
                return await self._grade(request, prompt, group, suspicion)
            except ObjectLost as lost:
                group = None
                lost_groups += 1
                if lost_groups == _LOST_GROUPS:
                    raise _lost_too_often(lost) from lost
            except _Setback as setback:
                suspicion.failures.append(setback.failure)
        return None

    async def probe(self, request: SampleRequest) -> list[pa.RecordBatch]:
        """A few tokens from every sampler that serves, by the weights that it holds now, ungraded.

        A sampler that cannot is examined, and left out.
        """
        # deadline: each probe has its own
        found = await asyncio.gather(*(self._probe(m, request) for m in self.samplers.members if m.serving))
        return [batch for batch in found if batch is not None]

    async def _probe(self, sampler: Member, request: SampleRequest) -> pa.RecordBatch | None:
        if not sampler.serving:
            return None  # lost since the caller looked
        tokens, group = sampler.actor().sample_group.options(num_returns=2).remote(request)
        try:
            await self._call(tokens, sampler, to="draw a probe", **self._deadlines.of("sample_s"))
            return await self._call(group, sampler, to="return a probe", **self._deadlines.of("sample_s"))
        except (_Setback, ObjectLost):
            return None

    def sampling_seconds(self) -> float:
        """Wall time so far in which at least one sampler had work."""
        return self._sampling.seconds()

    async def _sample(self, request: SampleRequest, suspicion: Suspicion) -> ObjectRef:
        async with self.samplers.borrow(request.max_generated_tokens, suspicion.crowd) as (sampler, company):
            with self._sampling:
                tokens: ObjectRef
                group: ObjectRef
                tokens, group = sampler.actor().sample_group.options(num_returns=2).remote(request)
                generated = await self._call(
                    tokens,
                    sampler,
                    company,
                    to=f"sample prompt {request.prompt_id!r} (position {request.sequence})",
                    **self._deadlines.of("sample_s"),
                )
            self.sampled_tokens += generated  # not in one statement: `x += await ...` reads x before it waits
        return group

    async def _grade(self, request: SampleRequest, prompt: Prompt, group: ObjectRef, suspicion: Suspicion) -> ObjectRef:
        async with self.verifiers.borrow(request.n, suspicion.crowd) as (verifier, company):
            done: ObjectRef
            graded: ObjectRef
            done, graded = verifier.actor().grade.options(num_returns=2).remote(group, prompt)
            await self._call(
                done,
                verifier,
                company,
                to=f"grade prompt {request.prompt_id!r} (position {request.sequence})",
                **self._deadlines.of("verify_s"),
            )
            return graded

    async def _call(
        self,
        ref: ObjectRef,
        member: Member,
        company: Callable[[], int] = lambda: 1,
        *,
        to: str,
        deadline_s: float,
        key: str,
    ) -> Any:
        incarnation = member.incarnation
        try:
            return await call(ref, owner=member.name, to=to, deadline_s=deadline_s, key=key)
        except ObjectLost:  # no failure of who was asked
            raise
        except ActorFailure as failure:
            await self._supervisor.examine(member, incarnation, failure)
            if member.incarnation == incarnation and member.present:  # the call failed, the actor did not
                raise _Setback(Failure(str(failure), None, company=1)) from failure
            raise _Setback(Failure(str(failure), (member.name, incarnation), company())) from failure

    def _give_up(self, suspicion: Suspicion) -> ObjectRef:
        self._quarantine.add(suspicion)
        self._supervisor.excuse(suspicion.losses)
        for other in self._under_way:
            other.clear(suspicion.losses)
        self._supervisor.changes.notify()  # those that were cleared need not wait for an empty actor any more
        count, most = self._quarantine.count(suspicion.purpose), self._settings.max_quarantined
        if count > most:
            raise ActorFailure(
                f"{count} prompts ({suspicion.purpose}) had to be quarantined, above supervision.max_quarantined = "
                f"{most}; the last: prompt {suspicion.request.prompt_id!r}: {suspicion.failures[-1].reason}"
            )
        return self._empty(suspicion.request)

    def _empty(self, request: SampleRequest) -> ObjectRef:
        return ray.put(quarantined_group(request).to_record_batch())


class _Setback(Exception):
    """One try failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class _Budget:
    """At most so many samples in flight; one group may always go, however large."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._used = 0
        self._freed = asyncio.Condition()

    def of(self, n: int) -> _Share:
        return _Share(self, n)

    async def take(self, n: int) -> None:
        # deadline: whoever holds it only counts, or waits for samples that have deadlines
        async with self._freed:
            # deadline: those in flight have theirs (sample_s, verify_s), and each gives its share back
            await self._freed.wait_for(lambda: self._limit is None or not self._used or self._used + n <= self._limit)
            self._used += n

    async def give(self, n: int) -> None:
        # deadline: whoever holds it only counts, or waits for samples that have deadlines
        async with self._freed:
            self._used -= n
            self._freed.notify_all()


class _Share:
    def __init__(self, budget: _Budget, n: int) -> None:
        self._budget = budget
        self._n = n

    async def __aenter__(self) -> None:
        await self._budget.take(self._n)

    async def __aexit__(self, *_: object) -> None:
        await self._budget.give(self._n)


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
    return ActorFailure(f"the object store lost the same group {_LOST_GROUPS} times: {lost}")
