"""From an admitted prompt to a graded group: samplers and verifier workers behind one coroutine.

The group itself never passes through the driver: a sampler leaves it in the object store, a verifier worker takes it
from there, and the driver holds two references and a few numbers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from ray import ObjectRef

from actors.group import SampleRequest
from actors.settings import DeadlineSettings
from actors.supervision import Member, call
from verifiers.task import Prompt


class RolloutPool:
    """Sends each prompt to the sampler with the fewest tokens in flight, and its group to the idlest verifier.

    Args:
        samplers, verifiers: the actors, at least one of each.
        deadlines: seconds for one group (``sample_s``) and for its grading (``verify_s``).
    """

    def __init__(self, samplers: Sequence[Member], verifiers: Sequence[Member], deadlines: DeadlineSettings) -> None:
        self._samplers = list(samplers)
        self._verifiers = list(verifiers)
        self._deadlines = deadlines
        self._load: Counter[str] = Counter()
        self._sampling = _BusyClock()
        self.sampled_tokens = 0

    async def graded_group(self, request: SampleRequest, prompt: Prompt) -> ObjectRef:
        """Sample and grade one group; a reference to its record batch.

        Raises:
            ActorFailure: when the sampler or the verifier worker died, failed or missed its deadline.
        """
        group = await self._sample(request)
        return await self._grade(request, prompt, group)

    def sampling_seconds(self) -> float:
        """Wall time so far in which at least one sampler had work."""
        return self._sampling.seconds()

    async def _sample(self, request: SampleRequest) -> ObjectRef:
        sampler = min(self._samplers, key=lambda member: self._load[member.name])
        self._load[sampler.name] += request.max_generated_tokens
        try:
            with self._sampling:
                tokens: ObjectRef
                group: ObjectRef
                tokens, group = sampler.handle.sample_group.options(num_returns=2).remote(request)
                generated = await call(
                    tokens,
                    owner=sampler.name,
                    to=f"sample prompt {request.prompt_id!r} (position {request.sequence})",
                    deadline_s=self._deadlines.sample_s,
                )
            self.sampled_tokens += generated  # not in one statement: `x += await ...` reads x before it waits
        finally:
            self._load[sampler.name] -= request.max_generated_tokens
        return group

    async def _grade(self, request: SampleRequest, prompt: Prompt, group: ObjectRef) -> ObjectRef:
        verifier = min(self._verifiers, key=lambda member: self._load[member.name])
        self._load[verifier.name] += request.n
        try:
            done: ObjectRef
            graded: ObjectRef
            done, graded = verifier.handle.grade.options(num_returns=2).remote(group, prompt)
            await call(
                done,
                owner=verifier.name,
                to=f"grade prompt {request.prompt_id!r} (position {request.sequence})",
                deadline_s=self._deadlines.verify_s,
            )
        finally:
            self._load[verifier.name] -= request.n
        return graded


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
