"""One run: its parts, and what the control loop does with them between two steps.

The loop (``cluster/run/loop.py``) is the order of events; this file is what "record", "check agreement", "evaluate" and
"checkpoint" do. ``cluster/run/job.py`` makes a Run and ends it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path

from ray import ObjectRef

from actors.fleet.rollout_pool import RolloutPool
from actors.fleet.supervision import Supervisor
from actors.logs import set_step
from actors.sampling import Sampling
from actors.threads import in_daemon_thread
from cluster.config import RunConfig
from cluster.evaluation.evaluate import evaluate, prompts_in_flight
from cluster.evaluation.summary import Evaluation, evaluation_file, objective_terms, strategies_of, trained_ks_of
from cluster.records.metric_names import EVALUATION_STEP
from cluster.run.clock import StepClock
from cluster.run.context import RunContext
from cluster.run.interfaces import GroupSource, Learner, WeightSync
from cluster.run.selection import Selection
from cluster.run.shutdown import Shutdown
from cluster.telemetry.memory import JobMemory
from cluster.telemetry.samplers import SamplerLoads
from verifiers.text.rendering import TokenizedPrompt

logger = logging.getLogger(__name__)


class AgreementError(RuntimeError):
    """The sampler and the learner assign different log-probabilities to the same tokens (docs/promises.md, 8)."""


@dataclass
class Run:
    """Everything the control loop needs.

    pool: samplers and verifiers; None: nothing is sampled. saved: step of the last checkpoint that this process wrote.
    stopped: why the run ended before its last step; None if it did not.
    """

    context: RunContext
    source: GroupSource
    learner: Learner
    broadcaster: WeightSync
    pool: RolloutPool | None
    supervisor: Supervisor
    memory: JobMemory
    shutdown: Shutdown
    loads: SamplerLoads = field(default_factory=SamplerLoads)
    evaluations: list[Evaluation] = field(default_factory=list)
    saved: int | None = None
    stopped: str | None = None

    def __post_init__(self) -> None:
        # `time/s` counts from the start of the first process of a resumed run
        self._started = time.monotonic() - self.context.directory.elapsed_s()
        context = self.context
        self.selection = Selection(
            context.config.evaluation, context.directory, context.checkpoints, context.first_step
        )

    @property
    def first_step(self) -> int:
        return self.context.first_step

    @property
    def steps(self) -> int:
        return self.context.config.run.steps

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """The groups of `step`. If a node with state will be lost, a checkpoint is saved while they are awaited."""
        lease = asyncio.ensure_future(self.source.lease(step))
        due = asyncio.ensure_future(self.supervisor.until_checkpoint_due())
        try:
            # deadline: the lease has its own
            await asyncio.wait([lease, due], return_when=asyncio.FIRST_COMPLETED)
            if self.supervisor.checkpoint_due:
                await self.checkpoint_if_new()
            return await lease
        finally:
            lease.cancel()
            due.cancel()

    def record(self, step: int, metrics: dict[str, float], clock: StepClock) -> dict[str, float]:
        """Log one finished step to the run directory and the dashboards, and warn of what keeps the run from learning.

        Returns:
            The step's row of metrics.
        """
        context = self.context
        row = metrics | clock.row() | self.memory.row() | self.loads.row()
        learning_s = row["time/learning_share"] * row["time/step_s"]
        row["throughput/trained_tokens_per_s"] = row.get("batch/tokens", 0.0) / max(learning_s, 1e-9)
        row["supervision/restarts"] = self.supervisor.restarts
        row["supervision/preemptions"] = self.supervisor.notices.count
        for name, restarts in self.supervisor.restarts_of.items():
            row[f"supervision/restarts_of/{name.replace(' ', '-')}"] = restarts
        if self.pool is not None:
            row["supervision/quarantined"] = self.pool.quarantined
            row["supervision/samplers"] = self.pool.samplers.serving
            row["supervision/verifiers"] = self.pool.verifiers.serving
        row |= {"train/step": step, "rollout/step": step, "time/s": time.monotonic() - self._started}
        set_step(step)
        logger.info(
            "step %d of %d: %.2f s, reward %.4f", step, self.steps, row["time/step_s"], row.get("reward/mean", nan)
        )
        context.directory.append_metrics(row)
        context.dashboards.step(row)
        context.health.step(row)
        return row

    def check_agreement(self, row: dict[str, float]) -> None:
        """Compare the sampler's log-probabilities with the learner's; recorded groups may be of another policy.

        Raises:
            AgreementError: the mean gap is above ``agreement.max_gap``.
        """
        max_gap = self.context.config.agreement.max_gap
        gap = row.get("logprob_gap/mean", 0.0)  # missing when no sampler could answer at this step
        if self.pool is not None and not gap <= max_gap:  # a gap of NaN fails too
            raise AgreementError(_disagreement(int(row["train/step"]), gap, max_gap))

    def evaluates_at(self, step: int) -> bool:
        """Whether to evaluate the weights after `step` steps."""
        settings = self.context.config.evaluation
        if self.pool is None:
            return False
        if step == 0:
            return settings.at_start
        return (step == self.steps and settings.at_end) or bool(settings.every and step % settings.every == 0)

    def lacks_evaluation(self) -> bool:
        """Whether to evaluate the weights that this process begins with: the base model, or those of a checkpoint whose
        evaluation a signal has stopped.
        """
        step = self.first_step
        return self.evaluates_at(step) and all(
            row.get(EVALUATION_STEP) != step for row in self.context.directory.read_metrics()
        )

    async def evaluate(self, step: int) -> None:
        """Measure the weights after `step` steps on the held-out prompts."""
        context, settings = self.context, self.context.config.evaluation
        if self.pool is None:
            raise RuntimeError("a replay has no samplers to evaluate with")
        which = f"the weights of step {step}" if step else "the base model"
        context.dashboards.phase(f"evaluating {which} on {len(context.held_out)} prompts")
        evaluation = await self.shutdown.unless_requested(
            evaluate_prompts(
                context.config,
                self.pool,
                context.held_out,
                n=settings.n,
                sampling=settings.sampling,
                step=step,
                log=context.directory.groups / evaluation_file(step),
            )
        )
        self.evaluations.append(evaluation)
        context.directory.append_metrics(evaluation.row())
        context.dashboards.evaluation(evaluation)
        if self.selection.add(evaluation):
            context.dashboards.message(f"best so far: {self.selection.best}")
            if step == self.first_step:  # its checkpoint is there already
                await in_daemon_thread(
                    self.selection.write,
                    owner="the driver",
                    to=f"write best.json in {context.directory.path} (see deadlines.checkpoint_s)",
                    deadline_s=context.config.deadlines.checkpoint_s,
                )

    def checkpoints_at(self, step: int) -> bool:
        """Whether to save after `step` steps: the last step is always saved, and the best one if it is kept."""
        every = self.context.config.checkpoint.every
        last = step == self.steps or self.selection.exhausted
        return last or self.selection.is_best(step) or bool(every and step % every == 0)

    async def checkpoint(self, step: int) -> None:
        """Save learner, queue and data cursor together; the checkpoint is complete or absent, never half written."""
        context, config = self.context, self.context.config
        context.dashboards.phase(f"saving a checkpoint of step {step}")
        await context.directory.flush(config.deadlines.checkpoint_s)  # a resume needs the rows up to this step
        async with context.checkpoints.writing(
            step,
            keep=config.checkpoint.keep,
            deadline_s=config.deadlines.checkpoint_s,
            expected=self.source.checkpoint_files,
            protected=self.selection.protected,
            when_complete=self.selection.write,
        ) as path:
            await self.source.save(path)
            await self.learner.save(str(path))
        self.saved = step
        context.dashboards.phase(f"training step {step + 1}" if step < self.steps else "finishing")

    async def checkpoint_if_new(self) -> None:
        """Save the finished steps of a run that stops early, unless they are saved already."""
        step = self.learner.version or 0
        if step not in (self.first_step, self.saved):
            await self.checkpoint(step)


async def evaluate_prompts(
    config: RunConfig,
    pool: RolloutPool,
    prompts: Sequence[TokenizedPrompt],
    *,
    n: int,
    sampling: Sampling,
    step: int,
    log: Path | None,
) -> Evaluation:
    """:func:`cluster.evaluation.evaluate.evaluate` for the objective of `config`."""
    return await evaluate(
        pool,
        prompts,
        n=n,
        sampling=sampling,
        max_tokens=config.rollout.max_response_tokens,
        seed=config.run.seed,
        step=step,
        max_in_flight=prompts_in_flight(config, sampling.samples(n)),
        strategies=strategies_of(config),
        trained_ks=trained_ks_of(config),
        terms=objective_terms(config),
        log=log,
    )


def _disagreement(step: int, gap: float, max_gap: float) -> str:
    """The message for a gap above `max_gap`: what it means and what to do."""
    if isnan(gap):
        return (
            f"step {step}: the log-probabilities of the sampler or of the learner are NaN (not a number): an earlier "
            "update broke the weights. Lower learner.learning_rate or learner.gradient_clip, or use "
            "model.dtype=float32, and resume from an earlier checkpoint."
        )
    return (
        f"step {step}: the sampler's log-probabilities differ from the learner's by {gap:.2e} per token with the same "
        f"weights (version {step - 1}); agreement.max_gap is {max_gap:.0e}. Either the sampler holds other weights "
        "than the learner, or the two compute with different precision: bfloat16 (model.dtype) stays near 1e-2, so "
        "raise agreement.max_gap to 0.05 there; with float32 report this as a bug."
    )
