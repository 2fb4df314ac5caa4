"""The sampler as a Ray actor: samples one group per request."""

from __future__ import annotations

import time

import pyarrow as pa
import ray

from actors.group import Group, SampleRequest
from actors.process_stats import Heartbeat, own_heartbeat
from actors.workers.sampler import Sampler


class SamplerActor(Sampler):
    """Adds to :class:`Sampler` the methods that the rollout pool, broadcaster and supervisor call."""

    _started = False

    async def start(self) -> float:
        """As :meth:`Sampler.start`."""
        seconds = await super().start()
        self._started = True
        return seconds

    async def node(self) -> str:
        """Ray's id of the node this sampler runs on."""
        return ray.get_runtime_context().get_node_id()

    async def heartbeat(self) -> Heartbeat:
        """A heartbeat of the sampler and, once started, of its engine.

        Raises:
            SamplerError: the engine core died.
        """
        if not self._started:
            return own_heartbeat(*self._engine.pids())
        await self.check()
        working = self._in_flight > 0 and not self._engine.updating
        return own_heartbeat(*self._engine.pids(), working=working, load=self._engine.load())

    async def sample_group(self, request: SampleRequest) -> tuple[int, pa.RecordBatch]:
        """Sample one group.

        Returns:
            (tokens generated, the ungraded group): two objects, so that the caller may await the small one.
        """
        started = time.perf_counter()
        completions = await self.sample(
            request.prompt_tokens.tolist(),
            n=request.n,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            seed=request.seed,
            request_id=f"{request.admitted_version}-{request.prompt_id}-{request.sequence}",
        )
        group = Group.sampled(
            request,
            sampler=self.name,
            sample_seconds=time.perf_counter() - started,
            response_tokens=[c.tokens for c in completions],
            behaviour_logprobs=[c.logprobs for c in completions],
            token_versions=[c.versions for c in completions],
            finish_reason=[c.finish_reason for c in completions],
        )
        return sum(len(c.tokens) for c in completions), group.to_record_batch()
