"""Learner rank (Ray actor): trains optimizer steps on graded groups and publishes the weights.

All ranks receive the same groups and compute the same advantages; the engine gives each rank its micro-batches. Work
runs on one dedicated thread, so that the actor answers heartbeats during a long step, and because torch's thread
settings are per thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from actors.group import Group
from actors.group_metrics import group_metrics
from actors.logs import set_step, start_actor_log
from actors.plugins import load_plugins
from actors.process_stats import Heartbeat, own_heartbeat
from actors.queue.allocation_settings import AllocationSettings
from actors.settings import BroadcastSettings, DeadlineSettings
from actors.weights import Destination, Published, make_transfer
from actors.workers.learning_step import LearningStep
from learner.checkpoint_identity import ADAPTER, ENGINE, HUGGINGFACE
from learner.objective import Objective
from learner.objective_settings import ObjectiveSettings
from learner.schedule import ScheduleSettings
from learner.settings import LearnerSettings, LossSettings
from verifiers.text.exported_prompts import finish_export
from verifiers.text.rendering import PromptSettings

if TYPE_CHECKING:
    from learner.engine import Engine

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Accumulated(NamedTuple):
    """The result of the first half of a step."""

    figures: dict[str, float]
    group: Group  # any group of the step
    row: dict[str, float]  # metrics of the groups


class LearnerRank:
    """One DeepSpeed rank.

    Args:
        rank, world_size: this rank and how many there are.
        model_path: local Hugging Face directory of the initial weights.
        dtype: parameter type, as in ``model.dtype``.
        learner, loss, objective, schedule: the configuration's sections.
        n: samples of a group, as in ``rollout.n``.
        allocation: the section ``rollout.allocation``.
        temperature: of sampling; the tempered log-probabilities are differentiated.
        broadcast: how the weights reach samplers.
        run_id: part of the names of published weights.
        prompts: how prompts are rendered; written into exported models.
        partial_updates: with adapters, publish only the weights that changed; samplers still hold the others.
        plugins: of the configuration; they may register the strategy or the estimator.
        shares_card: whether a sampler uses the same GPU between the learner's steps.
        deadlines: of sending weights; the longest one bounds each collective.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        model_path: str,
        dtype: str,
        learner: LearnerSettings,
        loss: LossSettings,
        objective: ObjectiveSettings,
        schedule: ScheduleSettings,
        n: int,
        allocation: AllocationSettings | None,
        temperature: float,
        seed: int,
        broadcast: BroadcastSettings,
        run_id: str,
        prompts: PromptSettings,
        partial_updates: bool = True,
        plugins: Sequence[str] = (),
        shares_card: bool = False,
        deadlines: DeadlineSettings | None = None,
    ) -> None:
        start_actor_log()
        load_plugins(plugins)
        self._prompts = prompts
        self._partial_updates = partial_updates
        self._model_path, self._dtype, self._seed = model_path, dtype, seed
        self._learner = learner
        self._loss = loss
        self._objective = Objective(objective)
        self._schedule = schedule
        self._n, self._allocation, self._temperature = n, allocation, temperature
        self._shares_card = shares_card
        self._deadlines = deadlines or DeadlineSettings()
        self._transfer = make_transfer(broadcast, run_id, self._deadlines)
        self._rank, self._world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._version = 0  # of the weights: finished steps
        self._accumulated: _Accumulated | None = None

    async def rendezvous(self) -> tuple[str, int]:
        """(address, free port) of this node for torch.distributed; called on rank 0 only."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    async def start(self, master_address: str, master_port: int) -> None:
        """Load the model and join the other ranks."""
        self._transfer.remove_leftovers(restarted=True)  # of a predecessor that died while it published

        self._engine = await self._run(
            lambda: self._load_engine(master_address, master_port), f"load {self._model_path}"
        )
        self._learning_step = LearningStep(
            self._engine,
            self._objective,
            self._loss,
            n=self._n,
            temperature=self._temperature,
            schedule=self._schedule,
            allocation=self._allocation,
        )

    def _load_engine(self, master_address: str, master_port: int) -> Engine:
        from learner.engine import Engine  # late: it imports DeepSpeed

        return Engine(
            self._model_path,
            dtype=self._dtype,
            learner=self._learner,
            loss=self._loss,
            rank=self._rank,
            world_size=self._world_size,
            master_address=master_address,
            master_port=master_port,
            device="cuda" if self._learner.gpus_per_rank else "cpu",
            seed=self._seed,
            temperature=self._temperature,
            reference=bool(self._loss.kl_coefficient or self._schedule.kl),
            rate_schedule=self._schedule.learning_rate,
            timeout_s=self._deadlines.longest_s,
        )

    async def accumulate(self, batches: list[pa.RecordBatch], step: int) -> None:
        """The gradient of the P groups of `batches` at weight version `step`."""
        set_step(step)
        await self._run(lambda: self._accumulate(batches, step), f"compute the gradient of step {step}")

    async def update(self, step: int, probes: Sequence[pa.RecordBatch]) -> dict[str, float]:
        """The optimizer step from version `step` with the gradient of :meth:`accumulate`; returns the step's metrics.

        `probes` are groups that every sampler drew with version `step`, only to compare samplers with the learner.
        """
        row = await self._run(lambda: self._update(step, probes), "update the weights")
        set_step(self._version)
        return row

    async def sleep(self) -> None:
        """Move what only a step needs to host memory (``learner.sleep``).

        Weights can be published and saved meanwhile.
        """
        await self._run(self._engine.sleep, "move its states to host memory")

    async def wake(self) -> None:
        """Bring back what :meth:`sleep` moved, before :meth:`accumulate`."""
        await self._run(self._engine.wake, "bring its states back to the GPU")

    async def node(self) -> str:
        """Ray's id of the node this rank runs on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    async def publish(self, receivers: Sequence[Destination]) -> Published:
        """Make the weights available to the samplers `receivers`.

        Every rank takes part; rank 0's result holds the weights.
        """
        here = await self.node()
        to = f"publish weights {self._version}"
        version, payload = await self._run(lambda: self._publish(here, receivers), to)
        return Published(here, version, payload)

    async def release(self, payload: Any) -> None:
        """Free published weights, including those of an earlier incarnation."""
        # deadline: the caller's broadcast_s
        await asyncio.to_thread(self._transfer.release, payload)

    async def save(self, directory: str) -> None:
        """Write this rank's part of a checkpoint; rank 0 also writes a plain Hugging Face directory, and adapters."""

        def work() -> None:
            self._engine.save(os.path.join(directory, ENGINE), self._learning_step.state())
            self._engine.export_huggingface(os.path.join(directory, HUGGINGFACE))
            if self._engine.adapters is not None:
                self._engine.export_adapters(os.path.join(directory, ADAPTER))
            if self._rank == 0:
                finish_export(os.path.join(directory, HUGGINGFACE), self._prompts)

        await self._run(work, f"save {directory}")

    async def load(self, directory: str, step: int) -> None:
        """Continue from a checkpoint that :meth:`save` wrote after `step` steps."""
        state = await self._run(lambda: self._engine.load(os.path.join(directory, ENGINE)), f"load {directory}")
        self._learning_step.restore(state)
        self._version = step
        set_step(step)

    async def heartbeat(self) -> Heartbeat:
        """A heartbeat, from the event loop that serves all calls."""
        return own_heartbeat()

    def _accumulate(self, batches: list[pa.RecordBatch], step: int) -> None:
        if self._accumulated is not None:
            raise RuntimeError(f"step {step}: the gradient of the previous step was not used")
        groups = [Group.from_record_batch(batch) for batch in batches]
        usable = [group for group in groups if group.usable]
        if not usable:
            raise RuntimeError(f"the verifier failed on every group of the step: {groups[0].fault}")
        figures, advantages = self._learning_step.accumulate(usable, step)
        row = group_metrics(usable, advantages, step, [group for group in groups if not group.usable])
        self._accumulated = _Accumulated(figures, usable[0], row)

    def _update(self, step: int, probes: Sequence[pa.RecordBatch]) -> dict[str, float]:
        if self._accumulated is None:
            raise RuntimeError(f"step {step}: there is no gradient")
        figures, one, row = self._accumulated
        self._accumulated = None
        gap = self._learning_step.agreement([Group.from_record_batch(batch) for batch in probes], step)
        if not gap and "logprob_gap/mean" not in figures:  # nothing was scored without a gradient
            gap = self._learning_step.agreement([one], step)
        for name, value in gap.items():
            figures[name] = float(np.maximum(value, figures.get(name, 0.0)))  # NaN stays NaN
        learned = self._learning_step.update(figures)
        self._version = step + 1
        return learned | row

    def _publish(self, here: str, receivers: Sequence[Destination]) -> tuple[int, Any]:
        if self._learner.sent_adapters is not None:
            partial, buckets = False, self._engine.adapter_buckets(self._transfer.bucket_bytes)
        else:
            partial = self._engine.adapters is not None and self._partial_updates
            buckets = self._engine.weight_buckets(self._transfer.bucket_bytes, partial=partial, copy=False)
        payload = self._transfer.publish(buckets, rank=self._rank, here=here, receivers=receivers, partial=partial)
        return self._version, payload

    async def _run(self, work: Callable[[], T], name: str) -> T:
        """Do `work` on the learner's thread and log it."""
        begin = time.perf_counter()

        def work_and_rest() -> T:
            try:
                return work()
            finally:
                if self._shares_card and self._accumulated is None:  # otherwise the step continues
                    _free_cached_memory()

        try:
            # deadline: each caller has its own
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work_and_rest)
        except Exception:
            logger.exception("failed to %s", name)
            raise
        logger.info("%s: %.2f s", name, time.perf_counter() - begin)
        return result


def _free_cached_memory() -> None:
    """Give the memory that torch keeps for later tensors back to the GPU."""
    import torch

    torch.cuda.empty_cache()
