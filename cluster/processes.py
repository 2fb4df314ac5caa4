"""Starts the actors of a run and ends them: Ray, environments, resources, and the order of starting."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ray

from actors.broadcaster import Broadcaster
from actors.learner_group import LearnerGroup
from actors.learner_rank import LearnerRank
from actors.queue_client import QueueClient
from actors.replay_queue import ReplayQueue
from actors.rollout_pool import RolloutPool
from actors.sampler_actor import SamplerActor
from actors.supervision import Member, Supervisor, call
from actors.verifier_worker import VerifierWorker
from cluster.config import RunConfig

# A lifeline, a heartbeat and weight updates are served beside the requests in flight.
_CONCURRENT_CALLS = 10_000


def connect(config: RunConfig) -> None:
    """Join the configured Ray cluster, or start a local one that ends with this process.

    Raises:
        ConnectionError: no cluster answers at ``cluster.address``.
    """
    address = config.cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "configure_logging": True}
    if address == "local":
        options |= {
            "num_cpus": config.cluster.num_cpus or max(os.cpu_count() or 1, _actor_count(config)),
            "object_store_memory": config.cluster.object_store_mib * 2**20,
            "include_dashboard": False,
        }
    ray.init(address=address, **options)


def disconnect() -> None:
    """Leave the cluster; a local one ends, and with it every actor."""
    ray.shutdown()


class Processes:
    """The actors of one run.

    Args:
        config: the resolved configuration.
        run_id: names shared-memory files and processes.
        supervisor: learns every actor's name, so that no death goes unnoticed.
    """

    def __init__(self, config: RunConfig, run_id: str, supervisor: Supervisor) -> None:
        self._config = config
        self._run_id = run_id
        self._supervisor = supervisor

    async def start_rollouts(self) -> RolloutPool:
        """Samplers and verifier workers, started together and ready to serve."""
        config = self._config
        samplers = [self._sampler(f"sampler-{i}") for i in range(config.actors.samplers)]
        verifiers = [self._verifier(f"verifier-{i}") for i in range(config.actors.verifiers)]
        deadline_s = config.deadlines.start_s
        await asyncio.gather(
            *(call(m.handle.start.remote(), owner=m.name, to="start", deadline_s=deadline_s) for m in samplers),
            *(call(m.handle.ready.remote(), owner=m.name, to="start", deadline_s=deadline_s) for m in verifiers),
        )
        self.samplers = samplers
        return RolloutPool(samplers, verifiers, config.deadlines)

    async def start_learner(self, load: str | None = None) -> LearnerGroup:
        """All learner ranks, joined in one process group; `load` is a checkpoint directory to continue from."""
        config = self._config
        ranks = [self._learner_rank(rank) for rank in range(config.learner.ranks)]
        learner = LearnerGroup(ranks, config.deadlines)
        await learner.start()
        if load is not None:
            await learner.load(load)
        return learner

    def start_queue(self, groups_directory: str, snapshot: dict[str, Any] | None) -> QueueClient:
        """The replay queue, on the driver's node because it writes into the run directory."""
        config = self._config
        handle = self._actor(ReplayQueue, num_cpus=0, near_driver=True).remote(
            prompts_per_step=config.rollout.prompts_per_step,
            staleness=config.queue.staleness,
            overtake=config.queue.overtake,
            total=config.run.steps * config.rollout.prompts_per_step,
            groups_directory=groups_directory,
            snapshot=snapshot,
        )
        return QueueClient(self._supervisor.add("replay queue", handle), config.deadlines)

    async def connect_broadcaster(self, learner: LearnerGroup) -> Broadcaster:
        """The way of the learner's weights to the samplers that :meth:`start_rollouts` started."""
        broadcaster = Broadcaster(learner, self.samplers, self._config.broadcast, self._config.deadlines)
        await broadcaster.connect()
        return broadcaster

    def _sampler(self, name: str) -> Member:
        config = self._config
        handle = self._actor(SamplerActor, num_gpus=config.sampler.gpus).remote(
            name, config.model.path, config.model.dtype, config.sampler, config.rollout, config.run.seed
        )
        return self._supervisor.add(name, handle)

    def _verifier(self, name: str) -> Member:
        gpus = self._config.actors.verifier_gpus
        actor = self._actor(VerifierWorker, num_gpus=gpus)
        handle = actor.remote(name, self._config.task, self._config.model.path, gpus)
        return self._supervisor.add(name, handle)

    def _learner_rank(self, rank: int) -> Member:
        config = self._config
        actor = self._actor(
            LearnerRank, num_gpus=config.learner.gpus_per_rank, env={"OMP_NUM_THREADS": str(config.learner.threads)}
        )
        handle = actor.remote(
            rank=rank,
            world_size=config.learner.ranks,
            model_path=config.model.path,
            dtype=config.model.dtype,
            learner=config.learner,
            loss=config.loss,
            objective=config.objective,
            schedule=config.schedule,
            temperature=config.rollout.temperature,
            seed=config.run.seed,
            run_id=self._run_id,
        )
        return self._supervisor.add(f"learner rank {rank}", handle)

    def _actor(
        self,
        cls: type,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        env: dict[str, str] | None = None,
        near_driver: bool = False,
    ) -> Any:
        variables = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **(env or {})}
        options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "max_concurrency": _CONCURRENT_CALLS,
            "runtime_env": {"env_vars": variables},
        }
        if near_driver:
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                node, soft=False
            )
        return ray.remote(cls).options(**options)


def _actor_count(config: RunConfig) -> int:
    return config.actors.samplers + config.actors.verifiers + config.learner.ranks
