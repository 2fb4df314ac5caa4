"""One simulated run: the product's driver over the actors of ``fakes.py``."""

from __future__ import annotations

import asyncio
import pickle
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from actors.fleet.broadcaster import Broadcaster
from actors.fleet.learner_group import LearnerGroup
from actors.fleet.queue_client import QueueClient
from actors.fleet.rollout_pool import RolloutPool
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Incident, Member, Unit
from actors.group import Group, SampleRequest
from actors.queue.state import Ticket
from benchmarks.scale.fakes import Counts, FakeActor, Shape, monitor, queue, rank, sampler, verifier
from cluster.config import RunConfig, load_config
from cluster.run.live_groups import LiveGroups
from cluster.run.loop import train
from verifiers.task import Prompt
from verifiers.text.rendering import TokenizedPrompt

LOCAL = Path(__file__).parents[2] / "cluster" / "presets" / "local.yaml"
SAMPLES, TOKENS, PROMPT_TOKENS = 16, 512, 128  # of the group whose bytes are counted
START_S = 600.0
NOTICE_S = 120.0  # longest wait for the report of a death


@dataclass
class Measured:
    """What one simulated run cost."""

    shape: Shape
    start_s: float
    start_cpu_s: float
    driver_cpu_ms_per_group: float
    peak_in_flight: int
    mean_in_flight: float
    calls_per_group: float
    queue_operations: int
    queue_operations_per_cpu_s: float
    death_noticed_s: float | None
    idle_death_noticed_s: float | None
    idle_cpu_share: float
    step_s: float


def simulate(shape: Shape) -> Measured:
    """Start all actors, train, kill two samplers, and idle."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_Simulation(shape, Path(directory) / "queue.arrow").run())


class _Simulation:
    def __init__(self, shape: Shape, journal: Path) -> None:
        self._shape = shape
        self._journal = journal
        self._counts = Counts()
        self._steps: list[float] = []
        self._config = configuration(shape)
        self._supervisor = Supervisor(
            self._config.supervision,
            START_S,
            cast(Any, lambda node: monitor(self._counts)),
            kill=lambda handle: None,
            report=self._report,
        )
        self._samplers: list[Member] = []
        self._broadcaster: Broadcaster | None = None
        self._actors = 0
        self._reported: asyncio.Future[float] | None = None
        self._death: asyncio.Task[float] | None = None

    async def run(self) -> Measured:
        began, cpu = time.monotonic(), time.process_time()
        run = await self._start()
        started = time.monotonic() - began, time.process_time() - cpu
        return await self._supervisor.run(self._measure(run, *started))

    async def _start(self) -> Any:
        """All actors, and what the control loop needs of a run."""
        shape, counts, deadlines, supervisor = self._shape, self._counts, self._config.deadlines, self._supervisor
        samplers = [self._member(f"sampler-{i}", partial(sampler, counts, shape=shape)) for i in range(shape.samplers)]
        verifiers = [self._member(f"verifier-{i}", partial(verifier, counts)) for i in range(shape.verifiers)]
        ranks = [self._member(f"learner rank {i}", partial(rank, counts)) for i in range(shape.ranks)]
        queue_member = self._member("replay queue", partial(queue, counts, shape=shape, journal=self._journal))
        self._samplers = samplers
        for member in samplers:
            supervisor.add(Unit(member.name, [member], partial(self._join, member)))
        for member in verifiers:
            supervisor.add(Unit(member.name, [member], _nothing))
        learner_unit = supervisor.add(Unit("learner", ranks, lambda: learner.prepare()))
        queue_unit = supervisor.add(Unit("replay queue", [queue_member], lambda: client.prepare()))
        learner = LearnerGroup(learner_unit, supervisor, deadlines, lambda: (0, None), cast(Any, None))
        client = QueueClient(queue_unit, supervisor, deadlines)
        pool = RolloutPool(samplers, verifiers, deadlines, supervisor, self._config.rollout.max_samples_in_flight)
        await supervisor.start(*supervisor.units)
        transfer = cast(Any, SimpleNamespace(address=lambda published, receiver: (), collective=False))
        self._broadcaster = Broadcaster(learner, transfer, deadlines, supervisor)
        await self._broadcaster.join(*samplers)
        source = LiveGroups(self._config, prompts(), pool, client)
        return SimpleNamespace(
            first_step=0,
            lacks_evaluation=lambda: False,
            steps=shape.steps,
            source=source,
            lease=source.lease,
            learner=learner,
            broadcaster=self._broadcaster,
            pool=pool,
            record=self._record,
            check_agreement=lambda row: None,
            evaluates_at=lambda step: False,
            checkpoints_at=lambda step: False,
            selection=SimpleNamespace(check=lambda step: None),
            shutdown=SimpleNamespace(unless_requested=_same, check=lambda: None),
        )

    def _member(self, name: str, make: Callable[[int], FakeActor]) -> Member:
        number = self._actors
        self._actors += 1
        return Member(name, cast(Any, lambda incarnation: make(number)))

    async def _join(self, member: Member) -> None:
        if self._broadcaster is not None:
            await self._broadcaster.join(member)

    async def _measure(self, run: Any, start_s: float, start_cpu_s: float) -> Measured:
        shape, counts = self._shape, self._counts
        calls, queue_cpu = counts.calls.total(), counts.queue_cpu_s
        began, cpu = time.monotonic(), time.process_time()
        await train(run)
        took = time.monotonic() - began
        queue_s = counts.queue_cpu_s - queue_cpu
        driver_s = time.process_time() - cpu - queue_s
        calls = counts.calls.total() - calls
        operations = sum(counts.calls[name] for name in ("reserve", "lease", "ack")) + counts.committed
        if counts.admitted or counts.calls["ack"] != shape.steps:
            raise RuntimeError(f"{len(counts.admitted)} groups were not committed: the simulation is wrong")
        noticed = await self._death if self._death is not None else None
        idle_cpu_share = await self._idle()
        return Measured(
            shape=shape,
            start_s=start_s,
            start_cpu_s=start_cpu_s,
            driver_cpu_ms_per_group=1e3 * driver_s / shape.groups,
            peak_in_flight=counts.peak,
            mean_in_flight=counts.group_seconds / took,
            calls_per_group=calls / shape.groups,
            queue_operations=operations,
            queue_operations_per_cpu_s=operations / queue_s,
            death_noticed_s=noticed,
            idle_death_noticed_s=await self._kill(self._samplers[0]) if shape.deaths else None,
            idle_cpu_share=idle_cpu_share,
            step_s=statistics.median(self._steps),
        )

    async def _idle(self) -> float:
        """The share of a core that supervision takes while nothing is in flight."""
        if not self._shape.idle:
            return 0.0
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(self._shape.idle)
        return (time.process_time() - cpu) / (time.monotonic() - began)

    def _record(self, step: int, metrics: dict[str, float], clock: Any) -> dict[str, float]:
        row: dict[str, float] = clock.row()
        self._steps.append(row["time/step_s"])
        if step == 1 and self._shape.deaths:  # the groups of the next step are sampled from now on
            self._death = asyncio.create_task(self._kill(self._samplers[-1], after_s=self._shape.latency / 2))
        return row

    async def _kill(self, member: Member, after_s: float = 0.0) -> float:
        """Kill an actor; the seconds until the supervisor reports it."""
        await asyncio.sleep(after_s)
        self._reported = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        member.handle.die()
        async with asyncio.timeout(NOTICE_S):
            return await self._reported - began

    def _report(self, incident: Incident) -> None:
        if self._reported is not None and not self._reported.done():
            self._reported.set_result(time.monotonic())


async def _nothing() -> None:
    """The preparation of an actor that is ready at once."""


async def _same(work: Awaitable[Any]) -> Any:
    return await work


def configuration(shape: Shape) -> RunConfig:
    return load_config(
        LOCAL,
        [
            f"run.steps={shape.steps}",
            f"rollout.prompts_per_step={shape.prompts}",
            f"rollout.n={SAMPLES}",
            f"queue.staleness={shape.staleness}",
            f"supervision.heartbeat_s={shape.heartbeat}",
        ],
    )


def prompts(size: int = 1000) -> list[TokenizedPrompt]:
    tokens = np.zeros(PROMPT_TOKENS, np.int32)
    return [TokenizedPrompt(Prompt(f"problem-{i}", "x" * 4 * PROMPT_TOKENS), tokens) for i in range(size)]


def message_bytes() -> dict[str, int]:
    """Bytes of one group: pickled calls of the driver, and the graded record that only the object store holds."""
    source = prompts(1)[0]
    config = configuration(Shape(1, 1, 1, 1, 0, 1, 0.0))
    request, prompt = LiveGroups(config, [source], cast(Any, None), cast(Any, None)).request(Ticket(0, 0))
    return {
        "driver": len(pickle.dumps(request, 5)) + len(pickle.dumps(prompt, 5)),
        "object_store": sampled(request, TOKENS).to_record_batch().nbytes,
    }


def sampled(request: SampleRequest, tokens: int) -> Group:
    """A group of answers with `tokens` tokens each."""
    rows = [np.zeros(tokens, np.int32)] * request.n
    return Group.sampled(
        request,
        sampler="sampler-0",
        sample_seconds=1.0,
        response_tokens=rows,
        behaviour_logprobs=[row.astype(np.float32) for row in rows],
        token_versions=rows,
        finish_reason=["stop"] * request.n,
    )
