"""What a group costs the driver, Ray included: real calls to actors that compute nothing.

    python -m benchmarks.driver [--tokens 512] [--groups-per-commit 256] [--prompts 2500] [--staleness 3] [--steps 5]

Real: Ray, the choice of workers, supervision with its heartbeats, the queue's client, and the replay queue in its own
process. Simulated: samplers answer after a latency with the same group of 16 answers, verifiers return it unchanged,
and nothing is trained: the groups of a step are leased and acknowledged at once. `python -m benchmarks.scale` simulates
more actors than one machine can hold, without Ray.

Prints the processor time of this process per group: of all its threads, and of the thread that runs Python. Compare
only runs on the same machine: the actors and other work share its cores and caches, which makes the same calls take
longer. (staleness + 1) x prompts groups are in flight at the start.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from actors.fleet.commits import MAX_GROUPS
from actors.fleet.queue_client import QueueClient
from actors.fleet.rollout_pool import RolloutPool
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Member, Unit
from actors.group import SampleRequest
from actors.process_stats import Heartbeat, NodeMonitor, own_heartbeat
from actors.remote_calls import call
from actors.workers.replay_queue import ReplayQueue
from benchmarks.scale.fakes import Shape
from benchmarks.scale.simulation import SAMPLES, START_S, configuration, prompts, sampled
from cluster.run.live_groups import LiveGroups

_CONCURRENCY = 100_000  # calls that an actor of this benchmark takes at a time


class Sampler:
    """Answers every request with the same group after about `latency` seconds."""

    def __init__(self, latency: float, tokens: int) -> None:
        self._latency, self._tokens = latency, tokens
        self._chance = random.Random(0)
        self._group: Any = None

    async def sample_group(self, request: SampleRequest) -> tuple[int, Any]:
        await asyncio.sleep(self._latency * self._chance.uniform(0.8, 1.2))
        self._group = self._group or sampled(request, self._tokens).to_record_batch()
        return request.n * self._tokens, self._group

    async def heartbeat(self) -> Heartbeat:
        return own_heartbeat()


class Verifier:
    """Returns groups as they are."""

    async def grade(self, group: Any, prompt: object) -> tuple[None, Any]:
        return None, group

    async def heartbeat(self) -> Heartbeat:
        return own_heartbeat()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.driver",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samplers", type=int, default=3)
    parser.add_argument("--verifiers", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=2500, help="per step")
    parser.add_argument("--staleness", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--latency", type=float, default=5.0, help="seconds for one group")
    parser.add_argument("--tokens", type=int, default=512, help=f"of each of the {SAMPLES} answers of a group")
    parser.add_argument("--groups-per-commit", type=int, default=MAX_GROUPS, help="at most; 1: one call for each group")
    options = parser.parse_args(arguments)
    import ray

    ray.init(num_cpus=8, include_dashboard=False, logging_level="warning")
    try:
        print(asyncio.run(_measure(options)))
    finally:
        ray.shutdown()


async def _measure(options: argparse.Namespace) -> str:
    import ray

    def member(name: str, actor: type, *arguments: Any, **keywords: Any) -> Member:
        remote = ray.remote(num_cpus=0, max_concurrency=_CONCURRENCY)(actor)
        return Member(name, lambda incarnation: remote.remote(*arguments, **keywords))

    shape = Shape(
        options.samplers, 0, options.verifiers, options.prompts, options.staleness, options.steps, options.latency
    )
    config = configuration(shape)
    monitor = ray.remote(num_cpus=0)(NodeMonitor)
    supervisor = Supervisor(config.supervision, START_S, lambda node: monitor.remote(), kill=ray.kill)
    samplers = [member(f"sampler-{i}", Sampler, shape.latency, options.tokens) for i in range(shape.samplers)]
    verifiers = [member(f"verifier-{i}", Verifier) for i in range(shape.verifiers)]
    with tempfile.TemporaryDirectory() as directory:
        queue = member(
            "replay queue",
            ReplayQueue,
            prompts_per_step=shape.prompts,
            staleness=shape.staleness,
            overtake=0,
            total=shape.groups,
            groups_directory=None,
            journal=str(Path(directory) / "queue.arrow"),
        )
        for one in (*samplers, *verifiers):
            supervisor.add(Unit(one.name, [one], partial(_until_it_answers, one)))
        unit = supervisor.add(Unit("replay queue", [queue], lambda: client.prepare()))
        client = QueueClient(unit, supervisor, config.deadlines, options.groups_per_commit)
        pool = RolloutPool(samplers, verifiers, config.deadlines, supervisor)
        await supervisor.start(*supervisor.units)
        return await supervisor.run(_train(shape, LiveGroups(config, prompts(), pool, client)))


async def _until_it_answers(member: Member) -> None:
    await call(member.actor().heartbeat.remote(), owner=member.name, to="start", deadline_s=START_S)


async def _train(shape: Shape, source: LiveGroups) -> str:
    began, cpu, thread = time.monotonic(), time.process_time(), time.thread_time()
    async with asyncio.TaskGroup() as tasks, source.rollouts_in(tasks):
        for step in range(shape.steps):
            await source.start_rollouts()
            await source.lease(step)
            await source.ack(step + 1)
    took, groups = time.monotonic() - began, shape.groups
    cpu, thread = time.process_time() - cpu, time.thread_time() - thread
    return (
        f"{groups} groups, {(shape.staleness + 1) * shape.prompts} in flight at most, {took:.0f} s: "
        f"{1e3 * cpu / groups:.3f} ms of processor time per group, {1e3 * thread / groups:.3f} ms of it in Python's "
        "thread"
    )


if __name__ == "__main__":
    main()
