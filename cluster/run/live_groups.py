"""Groups that the run samples itself: prompts -> sampler -> verifier -> replay queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow as pa
from ray import ObjectRef

from actors.fleet.queue_client import QueueClient
from actors.fleet.rollout_pool import RolloutPool
from actors.group import SampleRequest
from actors.queue.allocation import Allocation, Outcome, PlannedGroup
from actors.queue.prompt_stream import PromptStream, sampling_seed
from actors.queue.state import Ticket
from actors.sampling import Sampling
from cluster.config import RunConfig
from cluster.records.checkpoints import ALLOCATION_FILE, QUEUE_FILE, Checkpoint
from learner.objective import Objective
from learner.schedule import scheduled, scheduled_integer
from verifiers.task import Prompt
from verifiers.text.rendering import TokenizedPrompt

PROBE_SAMPLES, PROBE_TOKENS, PROBE_STREAM = 2, 8, 2


class LiveGroups:
    """A :class:`cluster.run.interfaces.GroupSource` made of samplers, verifier workers and the replay queue.

    Args:
        prompts: training prompts with their token ids.
        pool: samples and grades.
        queue: admits prompts, and keeps graded groups until the learner takes them.
        start: the checkpoint to resume from.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[TokenizedPrompt],
        pool: RolloutPool,
        queue: QueueClient,
        start: Checkpoint | None = None,
    ) -> None:
        self._config = config
        self._prompts = prompts
        self._stream = PromptStream(len(prompts), config.run.seed)
        self._pool = pool
        self._queue = queue
        self._allocation = allocation_of(config, len(prompts), start)
        self._outcomes: Sequence[Outcome] = ()  # of the leased groups

    @property
    def checkpoint_files(self) -> Sequence[str]:
        """The replay queue, and under ``rollout.allocation`` what decides the groups."""
        return (QUEUE_FILE, ALLOCATION_FILE) if self._allocation else (QUEUE_FILE,)

    @asynccontextmanager
    async def rollouts_in(self, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
        """While the body runs, rollouts are tasks of `tasks`; afterwards no new one is started."""
        self._queue.start_issuing(lambda ticket: tasks.create_task(self._rollout(ticket)))
        try:
            yield
        finally:
            self._queue.stop_issuing()

    async def start_rollouts(self) -> None:
        """Start a rollout for every free slot of the queue."""
        await self._queue.issue_free_slots()

    async def _rollout(self, ticket: Ticket) -> None:
        """One admitted prompt becomes a graded group in the queue."""
        request, prompt = self.request(ticket)
        await self._pool.deliver(request, prompt, lambda group: self._queue.commit(ticket.sequence, group))

    def request(self, ticket: Ticket) -> tuple[SampleRequest, Prompt]:
        """What to sample for an admitted position of the prompt stream."""
        rollout = self._config.rollout
        # The schedules follow the position's own step, so all groups of a step agree at any staleness.
        step, moves = ticket.sequence // rollout.prompts_per_step, self._config.schedule
        if self._allocation:
            planned = self._allocation.planned(ticket.sequence)
        else:
            planned = PlannedGroup(ticket.sequence, scheduled_integer(moves.n, step, rollout.n), weight=1.0)
        epoch, index = self._stream.locate(planned.place)
        source = self._prompts[index]
        request = SampleRequest(
            sequence=ticket.sequence,
            epoch=epoch,
            prompt_id=source.prompt.id,
            level=source.prompt.level,
            prompt_tokens=source.tokens,
            admitted_version=ticket.admitted_version,
            n=planned.n,
            weight=planned.weight,
            sampling=Sampling(scheduled(moves.temperature, step, rollout.temperature)),
            max_tokens=rollout.max_response_tokens,
            seed=sampling_seed(self._config.run.seed, ticket.sequence),
            demonstration_tokens=source.demonstration,
        )
        return request, source.prompt

    async def probe(self, version: int) -> list[pa.RecordBatch]:
        """A few tokens of every sampler; nothing at staleness 0, where the step's own groups serve the comparison."""
        if not self._config.queue.staleness:
            return []
        source = self._prompts[version % len(self._prompts)]
        rollout, moves = self._config.rollout, self._config.schedule
        return await self._pool.probe(
            SampleRequest(
                sequence=-1 - version,  # not a position of the prompt stream
                epoch=0,
                prompt_id=source.prompt.id,
                level=source.prompt.level,
                prompt_tokens=source.tokens,
                admitted_version=version,
                n=PROBE_SAMPLES,
                sampling=Sampling(scheduled(moves.temperature, version, rollout.temperature)),
                max_tokens=min(PROBE_TOKENS, rollout.max_response_tokens),
                seed=sampling_seed(self._config.run.seed, version, stream=PROBE_STREAM),
            )
        )

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """The groups of `step` and the queue's metrics; waits until all of them are graded."""
        leased, row = await self._queue.lease(step)
        if self._allocation:
            self._outcomes = await self._queue.outcomes()
            row = row | {"groups/expected_noise": self._allocation.noise(step)}
        return leased, row

    async def ack(self, version: int) -> None:
        """Free the slots of the leased groups."""
        await self._queue.ack(version)
        if self._allocation:
            self._allocation.add(version - 1, self._outcomes)

    async def save(self, directory: Path) -> None:
        """Write the queue's state and waiting groups, and the counts that decide the next groups."""
        await self._queue.snapshot(str(directory / QUEUE_FILE))
        if self._allocation:
            (directory / ALLOCATION_FILE).write_text(json.dumps(self._allocation.state()))


def allocation_of(config: RunConfig, prompts: int, start: Checkpoint | None) -> Allocation | None:
    """What decides the groups, continued from a checkpoint that has its counts; None without ``rollout.allocation``."""
    if config.rollout.allocation is None:
        return None
    file = start.path / ALLOCATION_FILE if start else None
    return Allocation(
        config.rollout.allocation,
        Objective(config.objective),
        config.schedule,
        config.rollout.n,
        PromptStream(prompts, config.run.seed),
        prompts_per_step=config.rollout.prompts_per_step,
        staleness=config.queue.staleness,
        first_step=start.step if start else 0,
        state=json.loads(file.read_text()) if file and file.is_file() else None,
    )
