"""A run: the five nouns wired together, and what the loop does with them between two steps.

The loop (``cluster/run/loop.py``) says *what happens in which order*; this file says what "observe", "evaluate" and
"checkpoint" mean. It starts nothing: ``cluster/run/job.py`` builds a Run and tears it down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Protocol

import pyarrow as pa

from actors.fleet.broadcaster import Broadcaster
from actors.fleet.learner_group import LearnerGroup
from actors.fleet.queue_client import QueueClient
from actors.fleet.rollout_pool import RolloutPool
from actors.fleet.supervision import Supervisor
from actors.group import SampleRequest
from actors.queue.prompt_stream import PromptStream, sampling_seed
from actors.queue.state import Ticket
from cluster.config import RunConfig
from cluster.evaluation.evaluate import (
    Evaluation,
    EvaluationPrompt,
    evaluate,
    evaluation_file,
    objective_terms,
    prompts_in_flight,
    strategies_of,
    trained_ks_of,
)
from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import RunDirectory
from cluster.run.clock import StepClock
from cluster.run.recorder import Recorder
from cluster.run.shutdown import Shutdown
from learner.schedule import scheduled, scheduled_integer
from verifiers.task import Prompt

PROBE_SAMPLES, PROBE_TOKENS, PROBE_STREAM = 2, 8, 2
QUEUE_FILE = "queue.arrow"  # in a checkpoint: the replay queue with its data cursor and waiting groups


class AgreementError(RuntimeError):
    """The sampler and the learner assign different log-probabilities to the same tokens (DESIGN.md, promise 8)."""


class Observer(Protocol):
    """Where metrics go: the terminal and the dashboards."""

    def step(self, row: Mapping[str, float]) -> None: ...

    def evaluation(self, evaluation: Evaluation) -> None: ...

    def phase(self, name: str) -> None: ...

    def memory_row(self) -> dict[str, float]: ...


@dataclass
class Run:
    """Everything the control loop needs, under the names of DESIGN.md."""

    config: RunConfig
    directory: RunDirectory
    checkpoints: Checkpoints
    observer: Observer
    prompts: Sequence[EvaluationPrompt]  # training prompts with their token ids
    held_out: Sequence[EvaluationPrompt]
    pool: RolloutPool
    queue: QueueClient
    learner: LearnerGroup | Recorder
    broadcaster: Broadcaster | Recorder
    supervisor: Supervisor
    shutdown: Shutdown
    first_step: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    saved: int | None = None  # step of the last checkpoint that this process wrote
    watch: Callable[[Mapping[str, float]], None] = lambda row: None  # looks for what keeps the run from learning

    def __post_init__(self) -> None:
        self._stream = PromptStream(len(self.prompts), self.config.run.seed)
        self._started = time.monotonic() - self.directory.elapsed_s()  # `time/s` is summed over resumes
        self._sampled_tokens = 0

    @property
    def steps(self) -> int:
        return self.config.run.steps

    def request(self, ticket: Ticket) -> tuple[SampleRequest, Prompt]:
        """What to sample for an admitted position of the prompt stream."""
        rollout = self.config.rollout
        epoch, index = self._stream.locate(ticket.sequence)
        source = self.prompts[index]
        # By the position's own step, not by the clock: all groups of a step agree, at any staleness.
        step, moves = ticket.sequence // rollout.prompts_per_step, self.config.schedule
        request = SampleRequest(
            sequence=ticket.sequence,
            epoch=epoch,
            prompt_id=source.prompt.id,
            level=source.prompt.level,
            prompt_tokens=source.tokens,
            admitted_version=ticket.admitted_version,
            n=scheduled_integer(moves.n, step, rollout.n),
            temperature=scheduled(moves.temperature, step, rollout.temperature),
            max_tokens=rollout.max_response_tokens,
            seed=sampling_seed(self.config.run.seed, ticket.sequence),
            demonstration_tokens=source.demonstration,
        )
        return request, source.prompt

    async def probe(self, version: int) -> list[pa.RecordBatch]:
        """A few tokens of every sampler at `version`, for the learner to compare; none where every group is fresh."""
        if not self.config.queue.staleness:
            return []
        source = self.prompts[version % len(self.prompts)]
        return await self.pool.probe(
            SampleRequest(
                sequence=-1 - version,  # of no position of the stream
                epoch=0,
                prompt_id=source.prompt.id,
                level=source.prompt.level,
                prompt_tokens=source.tokens,
                admitted_version=version,
                n=PROBE_SAMPLES,
                temperature=scheduled(self.config.schedule.temperature, version, self.config.rollout.temperature),
                max_tokens=min(PROBE_TOKENS, self.config.rollout.max_response_tokens),
                seed=sampling_seed(self.config.run.seed, version, stream=PROBE_STREAM),
            )
        )

    def observe(self, step: int, row: dict[str, float], clock: StepClock) -> None:
        """Log one finished step, and stop the run when the sampler and the learner disagree.

        Raises:
            AgreementError: when the mean log-probability gap is above ``agreement.max_gap``.
        """
        row = dict(row) | clock.row()
        sampled, self._sampled_tokens = self.pool.sampled_tokens - self._sampled_tokens, self.pool.sampled_tokens
        sampling_s = row["time/sampling_share"] * row["time/step_s"]
        learning_s = row["time/learning_share"] * row["time/step_s"]
        row["throughput/sampled_tokens_per_s"] = sampled / max(sampling_s, 1e-9)
        row["throughput/trained_tokens_per_s"] = row.get("batch/tokens", 0.0) / max(learning_s, 1e-9)
        row |= self.observer.memory_row() | self._worker_row()
        row |= {"train/step": step, "rollout/step": step, "time/s": time.monotonic() - self._started}
        self.directory.append_metrics(row)
        self.observer.step(row)
        self.watch(row)
        gap = row.get("logprob_gap/mean", 0.0)  # none: no sampler could answer at this step
        if not gap <= self.config.agreement.max_gap:  # NaN is no agreement either
            raise AgreementError(_disagreement(step, gap, self.config.agreement.max_gap))

    def _worker_row(self) -> dict[str, float]:
        return {
            "supervision/restarts": self.supervisor.restarts,
            "supervision/quarantined": self.pool.quarantined,
            "supervision/samplers": self.pool.samplers.serving,
            "supervision/verifiers": self.pool.verifiers.serving,
        }

    def evaluates_at(self, step: int) -> bool:
        """Whether the weights after `step` steps are to be evaluated."""
        settings = self.config.evaluation
        if step == 0:
            return settings.at_start
        return (step == self.steps and settings.at_end) or bool(settings.every and step % settings.every == 0)

    async def evaluate(self, step: int) -> None:
        """The curves on the held-out prompts with the weights after `step` steps."""
        which = f"the weights of step {step}" if step else "the base model"
        self.observer.phase(f"evaluating {which} on {len(self.held_out)} prompts")
        settings = self.config.evaluation
        evaluation = await self.shutdown.unless_asked(
            evaluate(
                self.pool,
                self.held_out,
                n=settings.n,
                temperature=settings.temperature,
                max_tokens=self.config.rollout.max_response_tokens,
                seed=self.config.run.seed,
                step=step,
                max_in_flight=prompts_in_flight(self.config, settings.n),
                strategies=strategies_of(self.config),
                trained_ks=trained_ks_of(self.config),
                terms=objective_terms(self.config),
                log=self.directory.groups / evaluation_file(step),
            )
        )
        self._sampled_tokens = self.pool.sampled_tokens  # evaluation is not training throughput
        self.evaluations.append(evaluation)
        self.directory.append_metrics(evaluation.row())
        self.observer.evaluation(evaluation)

    async def leave(self) -> None:
        """The last act of a run that was asked to leave, between two steps: a checkpoint, if there is news to save."""
        step = self.learner.version or 0
        if step not in (self.first_step, self.saved):
            await self.checkpoint(step)

    def checkpoints_at(self, step: int) -> bool:
        """Whether to save after `step` steps; the last step is always saved."""
        every = self.config.checkpoint.every
        return step == self.steps or bool(every and step % every == 0)

    async def checkpoint(self, step: int) -> None:
        """Save learner, queue and data cursor together; the directory appears whole or not at all."""
        self.observer.phase(f"saving a checkpoint of step {step}")
        settings, deadline_s = self.config.checkpoint, self.config.deadlines.checkpoint_s
        async with self.checkpoints.writing(
            step, keep=settings.keep, deadline_s=deadline_s, expected=[QUEUE_FILE]
        ) as path:
            await self.queue.snapshot(str(path / QUEUE_FILE))
            await self.learner.save(str(path))
        self.saved = step
        self.observer.phase(f"training step {step + 1}")


def _disagreement(step: int, gap: float, bar: float) -> str:
    """What a gap above the bar means and what to do about it."""
    if isnan(gap):
        return (
            f"step {step}: the log-probabilities of the sampler or of the learner are NaN (not a number): an earlier "
            "update broke the weights. Lower learner.learning_rate or learner.gradient_clip, or use "
            "model.dtype=float32, and start again from a checkpoint from before."
        )
    return (
        f"step {step}: the sampler's log-probabilities differ from the learner's by {gap:.2e} per token at equal "
        f"weights (version {step - 1}); agreement.max_gap is {bar:.0e}. Either the sampler holds other weights than "
        "the learner, or the two compute with different precision: bfloat16 (model.dtype) stays near 1e-2, so raise "
        "agreement.max_gap to 0.05 there; with float32 report this as a bug."
    )
