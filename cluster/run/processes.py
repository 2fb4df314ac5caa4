"""Starts Ray and the actors of a run, with their environments and resources."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import worker  # no public call names the log directory
from ray.actor import ActorHandle

from actors.fleet.broadcaster import Broadcaster
from actors.fleet.learner_group import LearnerGroup, Origin
from actors.fleet.quarantine import Quarantine
from actors.fleet.queue_client import QueueClient
from actors.fleet.rollout_pool import RolloutPool
from actors.fleet.shared_cards import Cards, SharedCards
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Incident, Member, Unit
from actors.fleet.worker_pool import WorkerPool
from actors.logs import environment
from actors.process_stats import Heartbeat, NodeMonitor
from actors.queue.group_log import groups_file, read_groups
from actors.remote_calls import call
from actors.weights import make_transfer
from actors.workers.imitation_rank import ImitationRank
from actors.workers.learner_rank import LearnerRank
from actors.workers.replay_queue import ReplayQueue
from actors.workers.sampler_actor import SamplerActor
from actors.workers.verifier_worker import Ready, VerifierWorker
from cluster.checks.memory.rank import reserved_memory
from cluster.checks.memory.shape import shape_of
from cluster.checks.model_facts import read_model
from cluster.checks.ray_cluster import address_of, check_address, layout_problems, role_problems
from cluster.config import RunConfig
from cluster.config.gpu_rules import gpus_wanted
from cluster.errors import UsageError
from cluster.launch.demand import restricted, role_resource
from cluster.run.nodes import RayNodes
from cluster.run.placement import Placement
from cluster.run.reservation import BundleReservation
from learner.imitation import ImitationSettings
from verifiers.rewards.environment import of_actor

logger = logging.getLogger(__name__)

JOURNAL = "queue.arrow"  # in the run directory: the replay queue's own accounting
# Heartbeats and weight updates are served alongside the requests in flight.
_CONCURRENT_CALLS = 10_000
_TOO_SLOW = "timed out during startup"  # in Ray's message, whose exception has no class of its own


def connect(config: RunConfig) -> None:
    """Join the configured Ray cluster, or start a local one that ends with this process.

    Raises:
        ConnectionError: no cluster answers at ``cluster.address``, or the local one did not start in time.
    """
    # Ray logs at every start that it needs a token, which a local cluster makes itself.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    address, key = address_of(config)
    check_address(address, key)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "configure_logging": True}
    if address == "local":
        options |= {
            "num_cpus": config.cluster.num_cpus or max(os.cpu_count() or 1, _actor_count(config)),
            "object_store_memory": config.cluster.object_store_mib * 2**20,
            "include_dashboard": False,
            "resources": {role_resource(role): 1 for role in restricted(config)},
            # Calls that Ray's control store remembers (default 100,000: over 200 MB in a long run).
            "_system_config": {"task_events_max_num_task_in_gcs": 10_000},
        }
        if config.cluster.num_gpus and gpus_wanted(config):  # Ray asks a library that virtual machines may lack
            options["num_gpus"] = config.cluster.num_gpus
    try:
        # deadline: Ray's own, for its processes to start
        ray.init(address=address, **options)
    except ConnectionError as error:
        if address != "auto":
            raise
        raise ConnectionError(
            f"{key} = auto: this machine is not a node of a running Ray cluster ({error}); start the run on a "
            "node, submit it (`bonrl submit`), or give cluster.address=local for a cluster that ends with the run"
        ) from error
    except Exception as error:
        if _TOO_SLOW not in str(error):
            raise
        load = os.getloadavg()[0]
        raise ConnectionError(
            f"Ray did not start on this machine within its limit of 30 s; the load average is {load:.0f} on "
            f"{os.cpu_count()} CPUs. If other work causes the load, start the run again later; if not, see Ray's logs, "
            "which are in /tmp/ray/session_latest/logs by default"
        ) from error
    if address != "local":
        _check_layout(config)


def _check_layout(config: RunConfig) -> None:
    """Check that the nodes of the cluster have room for the actors.

    Raises:
        UsageError: they have not.
    """
    # deadline: Ray's own, for its control store
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    problems = [*layout_problems(config, nodes), *role_problems(config, nodes)]
    if problems:
        raise UsageError("\n".join(problems))


def disconnect() -> None:
    """Leave the cluster; a local one ends, and with it every actor."""
    # deadline: the caller bounds it
    ray.shutdown()


def log_directory() -> str:
    """Where every node of the connected cluster keeps the logs of its actors."""
    node = worker.global_worker.node
    return str(node.get_logs_dir_path()) if node else "in Ray's session directory"


class Processes:
    """The actors of one run.

    Args:
        config: the resolved configuration.
        run_id: names shared-memory files and processes.
        report: called for every actor that is lost, and again when it is replaced.
        ready: called with the name and the report of every verifier worker that starts to serve.
        logs: directory of the actors' log files; None: Ray's log directory of each node.
        on_heartbeat: called with the name and each heartbeat of an actor.
        imitation: the learner imitates examples; None: it trains on groups.
    """

    def __init__(
        self,
        config: RunConfig,
        run_id: str,
        report: Callable[[Incident], None],
        ready: Callable[[str, Ready], None] = lambda name, ready: None,
        logs: Path | None = None,
        on_heartbeat: Callable[[str, Heartbeat], None] = lambda name, heartbeat: None,
        imitation: ImitationSettings | None = None,
    ) -> None:
        self._config = config
        self._imitation = imitation
        self._run_id = run_id
        self._ready = ready
        self._logs = logs
        self._placement = Placement(config)
        self._broadcaster: Broadcaster | None = None  # until it is connected, samplers keep the weights of model.path
        self.supervisor = Supervisor(
            config.supervision,
            config.deadlines.start_s,
            _node_monitor,
            kill=ray.kill,
            report=report,
            nodes=RayNodes(),
            on_heartbeat=on_heartbeat,
        )
        self._sleeps = config.sampler.sleep != "none"
        self._cards = Cards()
        if self._placement.shares_cards:
            self._cards = SharedCards(self.supervisor, config.deadlines, sleeps=self._sleeps)

    async def reserve_cards(self) -> bool:
        """Reserve room for the learner; returns whether samplers share its GPUs."""
        # deadline: start_s
        await self._placement.reserve()
        return self._placement.shares_cards

    async def start_rollouts(self, tokenizer: str, quarantine: Quarantine | None = None) -> RolloutPool:
        """Samplers and verifier workers, started together and ready to serve; those above `min` may join later.

        Args:
            tokenizer: the name of the tokenizer's class in transformers, with which verifier workers load it.
            quarantine: keeps the prompts that crash actors.
        """
        config, actors = self._config, self._config.actors
        samplers = [self._sampler(i) for i in range(actors.sampler_range.max)]
        verifiers = [self._verifier(f"verifier-{i}", tokenizer) for i in range(actors.verifier_range.max)]
        pool = RolloutPool(
            [member for unit in samplers for member in unit.members],
            [member for unit in verifiers for member in unit.members],
            config.deadlines,
            self.supervisor,
            config.rollout.max_samples_in_flight,
            quarantine,
            pauses=self._sleeps,
        )
        for units, workers, minimum in (
            (samplers, pool.samplers, actors.sampler_range.min),
            (verifiers, pool.verifiers, actors.verifier_range.min),
        ):
            for unit in units:
                unit.spare = partial(_enough, workers, minimum)
                unit.busy = partial(workers.busy, unit.members[0])
        await self.supervisor.start(*samplers[: actors.sampler_range.min], *verifiers[: actors.verifier_range.min])
        return pool

    async def start_learner(
        self, origin: Callable[[], Origin], history: Callable[[int], ray.ObjectRef]
    ) -> LearnerGroup:
        """All learner ranks, joined in one process group, at the newest checkpoint.

        Args:
            origin: the newest checkpoint.
            history: what a step since then (0: the first of all) trained on, for ranks that replace lost ones.
        """
        config = self._config
        members = [
            Member(f"learner rank {rank}", partial(self._learner_rank, rank)) for rank in range(config.learner.ranks)
        ]

        async def prepare() -> None:
            await learner.prepare()
            if self._broadcaster is not None and not learner.training:  # a step ends with an update anyway
                await self._broadcaster.wake()

        unit = Unit("learner", members, prepare, busy=lambda: learner.unsaved, stateful=True)
        self.supervisor.add(unit)
        sleeps = config.learner.sleep != "none"
        learner = LearnerGroup(unit, self.supervisor, config.deadlines, origin, history, self._cards, sleeps=sleeps)
        await self.supervisor.start(unit)
        return learner

    async def start_queue(self, run_directory: Path, snapshot: str | None) -> QueueClient:
        """The replay queue, on the driver's node because it writes into the run directory."""
        config = self._config

        def spawn(incarnation: int) -> ActorHandle:
            return self._actor(ReplayQueue, "replay queue", num_cpus=0, near_driver=True).remote(
                prompts_per_step=config.rollout.prompts_per_step,
                staleness=config.queue.staleness,
                overtake=config.queue.overtake,
                total=config.run.steps * config.rollout.prompts_per_step,
                groups_directory=str(run_directory / "groups"),
                journal=str(run_directory / JOURNAL),
                snapshot=None if incarnation else snapshot,
                recover=incarnation > 0,
            )

        unit = Unit("replay queue", [Member("replay queue", spawn)], prepare=lambda: client.prepare())
        client = QueueClient(self.supervisor.add(unit), self.supervisor, config.deadlines)
        await self.supervisor.start(unit)
        return client

    async def connect_broadcaster(self, learner: LearnerGroup, pool: RolloutPool) -> Broadcaster:
        """Give the learner's weights to the samplers of `pool` and, from now on, to each one that starts later."""
        settings = self._config.broadcast
        logger.info("broadcast.backend = %s: weights travel by %s", settings.backend, settings.chosen_backend)
        transfer = make_transfer(settings, self._run_id)
        workers = self._config.sampler.tensor_parallel
        broadcaster = Broadcaster(learner, transfer, self._config.deadlines, self.supervisor, workers, self._cards)
        await broadcaster.join(*(member for member in pool.samplers.members if member.present))
        self._broadcaster = broadcaster
        return broadcaster

    def _sampler(self, index: int) -> Unit:
        config, name = self._config, f"sampler-{index}"
        reserved = 0.0
        if self._placement.shares_cards:
            reserved = reserved_memory(config, shape_of(config, read_model(config.model.path)))
        reservation = BundleReservation(self._placement.needs("sampler", config.sampler.gpus))

        def spawn(incarnation: int) -> ActorHandle:
            return self._actor(SamplerActor, name, **(self._placement.sampler(index) | reservation.options())).remote(
                name,
                config.model.path,
                config.model.dtype,
                config.sampler,
                config.rollout,
                config.run.seed,
                config.broadcast,
                lora=config.learner.sent_adapters,
                reserved=reserved,
                card_gib=config.cluster.gpu_memory_gib if reserved else None,
            )

        member = Member(name, spawn)

        async def prepare() -> None:
            async with self._cards.sampler_turn(member, member.incarnation, to="start its engine"):
                await self._start(member, lambda sampler: sampler.start.remote())
            if self._broadcaster is not None:
                await self._broadcaster.join(member)

        unit = self.supervisor.add(Unit(name, [member], prepare, reservation=reservation))
        self._cards.add(unit)
        return unit

    def _verifier(self, name: str, tokenizer: str) -> Unit:
        config, gpus = self._config, self._config.actors.verifier_gpus
        reservation = BundleReservation(self._placement.needs("verifier", gpus))

        def spawn(incarnation: int) -> ActorHandle:
            actor = self._actor(VerifierWorker, name, **(self._placement.verifier() | reservation.options()))
            return actor.remote(name, config.task, config.model.path, gpus, config.plugins, tokenizer)

        member = Member(name, spawn)

        async def prepare() -> None:
            self._ready(name, await self._start(member, lambda verifier: verifier.ready.remote()))

        return self.supervisor.add(Unit(name, [member], prepare, reservation=reservation))

    async def _start(self, member: Member, request: Callable[[Any], Awaitable[Any]]) -> Any:
        """The answer to the first `request` to a new actor."""
        start_s = self._config.deadlines.start_s
        reference = request(member.actor())
        return await call(reference, owner=member.name, to="start", deadline_s=start_s, key="deadlines.start_s")

    def _learner_rank(self, rank: int, incarnation: int) -> ActorHandle:
        config = self._config
        if rank == 0 and incarnation:
            self._placement.renew_ranks(self.supervisor.notices.draining)
        imitates: dict[str, Any] = {} if self._imitation is None else {"imitation": self._imitation}
        actor = self._actor(
            ImitationRank if imitates else LearnerRank,
            f"learner rank {rank}",
            env={"OMP_NUM_THREADS": str(config.learner.threads)},
            **self._placement.learner(rank),
        )
        return actor.remote(
            rank=rank,
            world_size=config.learner.ranks,
            model_path=config.model.path,
            dtype=config.model.dtype,
            learner=config.learner,
            loss=config.loss,
            objective=config.objective,
            schedule=config.schedule,
            n=config.rollout.n,
            allocation=config.rollout.allocation,
            temperature=config.rollout.temperature,
            seed=config.run.seed,
            broadcast=config.broadcast,
            partial_updates=config.sampler.sleep != "weights",
            run_id=self._run_id,
            prompts=config.task,
            plugins=config.plugins,
            shares_card=self._placement.shares_cards,
            deadlines=config.deadlines,
            **imitates,
        )

    def _actor(
        self,
        cls: type,
        name: str,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        env: dict[str, str] | None = None,
        near_driver: bool = False,
        resources: dict[str, float] | None = None,
        scheduling_strategy: Any = None,
    ) -> Any:
        log = environment(name, self._logs, self._config.run.log_level)
        variables = {**of_actor(), **log, **(env or {})}
        options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "resources": resources or {},
            "max_concurrency": _CONCURRENT_CALLS,
            "runtime_env": {"env_vars": variables},
        }
        if near_driver:
            scheduling_strategy = _on(ray.get_runtime_context().get_node_id())
        if scheduling_strategy is not None:
            options["scheduling_strategy"] = scheduling_strategy
        return ray.remote(cls).options(**options)


def groups_in(directory: Path) -> Callable[[int], ray.ObjectRef]:
    """The groups of each step (0: the first) in the group log `directory`."""
    return lambda step: ray.put(read_groups(directory / groups_file(step + 1)))


def _node_monitor(node: str) -> Any:
    """The monitor actor of `node`; Ray restarts it if it dies."""
    return (
        ray.remote(NodeMonitor)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=1, scheduling_strategy=_on(node))
        .remote()
    )


def _on(node: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)


def _enough(workers: WorkerPool, minimum: int) -> bool:
    return workers.serving >= minimum


def _actor_count(config: RunConfig) -> int:
    actors = config.actors
    return actors.sampler_range.max + actors.verifier_range.max + config.learner.ranks
