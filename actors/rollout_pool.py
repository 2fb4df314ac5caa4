"""Which sampler samples which prompt, and which verifier grades it: the least loaded, by tokens and by samples.

What a lost actor had in hand is given to another: a group that was being sampled is sampled again with the same seed,
one that was being graded is graded again. A prompt that is in hand at every failure is a suspect; it gets its last try
with nothing beside it, and if that fails too it is quarantined: the group goes on without samples, so that its slot and
its place in the order stay what they were, and the learner sets it aside by name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray import ObjectRef

from actors.crew import Crew
from actors.group import SampleRequest, quarantined_group
from actors.settings import DeadlineSettings, SupervisionSettings
from actors.supervision import ActorFailure, Member, Supervisor, call
from verifiers.task import Prompt


@dataclass
class Suspicion:
    """The failures that happened with one group in hand."""

    request: SampleRequest
    failures: list[str] = field(default_factory=list)


class RolloutPool:
    """Gives each request to the sampler with the fewest tokens in flight, and its group to the idlest verifier.

    Args:
        samplers, verifiers: all actors that may serve.
        deadlines: seconds for one group (``sample_s``) and for its grading (``verify_s``).
        supervisor: is told of members that miss a deadline.
        max_samples: samples in flight at once, from admission to verdict; None: no bound here.
        quarantine: is told of a prompt that is given up, with the evidence.
    """

    def __init__(
        self,
        samplers: Sequence[Member],
        verifiers: Sequence[Member],
        deadlines: DeadlineSettings,
        supervisor: Supervisor,
        max_samples: int | None = None,
        quarantine: Callable[[Suspicion], None] = lambda suspicion: None,
    ) -> None:
        patience_s = 2 * deadlines.start_s + deadlines.sample_s + deadlines.verify_s
        self.samplers = Crew("sampler", samplers, supervisor.changes, patience_s)
        self.verifiers = Crew("verifier", verifiers, supervisor.changes, patience_s)
        self._deadlines = deadlines
        self._supervisor = supervisor
        self._settings: SupervisionSettings = supervisor.settings
        self._budget = _Budget(max_samples)
        self._quarantine = quarantine
        self._sampling = _BusyClock()
        self.sampled_tokens = 0
        self.quarantined = 0

    async def graded_group(self, request: SampleRequest, prompt: Prompt) -> ObjectRef:
        """Sample and grade one group; a reference to its record batch.

        Raises:
            ActorFailure: when nobody could, or too many prompts had to be given up.
        """
        suspicion = Suspicion(request)
        async with self._budget.of(request.n):
            group: ObjectRef | None = None
            while len(suspicion.failures) < self._settings.poison_deaths:
                try:
                    if group is None:
                        group = await self._sample(request, self._alone(suspicion))
                    return await self._grade(request, prompt, group, self._alone(suspicion))
                except _Setback as setback:
                    suspicion.failures.append(str(setback))
                    if setback.lost_group:
                        group = None
        return self._give_up(suspicion)

    async def probe(self, request: SampleRequest) -> list[pa.RecordBatch]:
        """A few tokens from every sampler that serves, by the weights that it holds now, ungraded.

        A sampler that cannot is examined, and left out.
        """
        found = await asyncio.gather(*(self._probe(m, request) for m in self.samplers.members if m.serving))
        return [batch for batch in found if batch is not None]

    async def _probe(self, sampler: Member, request: SampleRequest) -> pa.RecordBatch | None:
        tokens, group = sampler.handle.sample_group.options(num_returns=2).remote(request)
        try:
            await self._call(tokens, sampler, to="draw a probe", deadline_s=self._deadlines.sample_s)
            return await self._call(group, sampler, to="return a probe", deadline_s=self._deadlines.sample_s)
        except _Setback:
            return None

    def sampling_seconds(self) -> float:
        """Wall time so far in which at least one sampler had work."""
        return self._sampling.seconds()

    def _alone(self, suspicion: Suspicion) -> bool:
        return len(suspicion.failures) == self._settings.poison_deaths - 1 > 0

    async def _sample(self, request: SampleRequest, alone: bool) -> ObjectRef:
        async with self.samplers.borrow(request.max_generated_tokens, alone=alone) as sampler:
            with self._sampling:
                tokens: ObjectRef
                group: ObjectRef
                tokens, group = sampler.handle.sample_group.options(num_returns=2).remote(request)
                generated = await self._call(
                    tokens,
                    sampler,
                    to=f"sample prompt {request.prompt_id!r} (position {request.sequence})",
                    deadline_s=self._deadlines.sample_s,
                )
            self.sampled_tokens += generated  # not in one statement: `x += await ...` reads x before it waits
        return group

    async def _grade(self, request: SampleRequest, prompt: Prompt, group: ObjectRef, alone: bool) -> ObjectRef:
        async with self.verifiers.borrow(request.n, alone=alone) as verifier:
            done: ObjectRef
            graded: ObjectRef
            done, graded = verifier.handle.grade.options(num_returns=2).remote(group, prompt)
            await self._call(
                done,
                verifier,
                to=f"grade prompt {request.prompt_id!r} (position {request.sequence})",
                deadline_s=self._deadlines.verify_s,
            )
            return graded

    async def _call(self, ref: ObjectRef, member: Member, *, to: str, deadline_s: float) -> Any:
        incarnation = member.incarnation
        try:
            return await call(ref, owner=member.name, to=to, deadline_s=deadline_s)
        except ActorFailure as failure:
            lost_group = isinstance(failure.__cause__, ray.exceptions.ObjectLostError) or "ObjectLost" in str(failure)
            if not lost_group:
                await self._supervisor.examine(member, incarnation, failure)
            raise _Setback(str(failure), lost_group) from failure

    def _give_up(self, suspicion: Suspicion) -> ObjectRef:
        self.quarantined += 1
        self._quarantine(suspicion)
        if self.quarantined > self._settings.max_quarantined:
            raise ActorFailure(
                f"{self.quarantined} prompts had to be set aside, above supervision.max_quarantined = "
                f"{self._settings.max_quarantined}; the last: prompt {suspicion.request.prompt_id!r}: "
                f"{suspicion.failures[-1]}"
            )
        return ray.put(quarantined_group(suspicion.request).to_record_batch())


class _Setback(Exception):
    """One try failed; `lost_group` when the sampled group is gone and not only its grades."""

    def __init__(self, reason: str, lost_group: bool) -> None:
        super().__init__(reason)
        self.lost_group = lost_group


class _Budget:
    """At most so many samples in flight; one group may always go, however large."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._used = 0
        self._freed = asyncio.Condition()

    def of(self, n: int) -> _Share:
        return _Share(self, n)

    async def take(self, n: int) -> None:
        async with self._freed:
            # deadline: those in flight have theirs (sample_s, verify_s), and each gives its share back
            await self._freed.wait_for(lambda: self._limit is None or not self._used or self._used + n <= self._limit)
            self._used += n

    async def give(self, n: int) -> None:
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
