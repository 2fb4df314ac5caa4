"""Actor handles without actors: their methods answer after a latency. Only the replay queue is the product's."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError

from actors.group import SampleRequest
from actors.process_stats import Heartbeat, Process, ProcessStats
from actors.weights import Published
from actors.workers.replay_queue import ReplayQueue

ACTORS_PER_NODE = 8
VERIFY_S = 0.05
QUICK_S = 0.001  # calls that compute nothing
WORK_S = 0.01  # of the learner, and of loading weights


@dataclass(frozen=True)
class Shape:
    """The simulated cluster and run; latencies in seconds.

    latency: of one group. lanes: groups that a sampler works on at a time; None: all. idle: how long supervision is
    measured without groups. deaths: whether two samplers are killed.
    """

    samplers: int
    ranks: int
    verifiers: int
    prompts: int
    staleness: int
    steps: int
    latency: float
    lanes: int | None = None
    idle: float = 0.0
    heartbeat: float = 1.0
    deaths: bool = False

    @property
    def groups(self) -> int:
        return self.prompts * self.steps

    @property
    def actors(self) -> int:
        return self.samplers + self.ranks + self.verifiers + 1


@dataclass
class Counts:
    """What the fakes count.

    admitted: when each group in flight was sampled first. committed: groups. group_seconds: in flight, of those.
    """

    calls: Counter[str] = field(default_factory=Counter)
    admitted: dict[int, float] = field(default_factory=dict)
    committed: int = 0
    peak: int = 0
    group_seconds: float = 0.0
    queue_cpu_s: float = 0.0


class Method:
    """A method of a fake actor handle."""

    def __init__(self, actor: FakeActor, counts: Counts, name: str, answer: Callable[..., Any]) -> None:
        self._actor, self._counts, self._name, self._answer = actor, counts, name, answer

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Any:
        self._counts.calls[self._name] += 1
        answer = self._answer(*arguments)
        self._actor.answers(answer[0] if isinstance(answer, tuple) else answer)
        return answer


class FakeActor:
    """A handle whose methods are the functions in `methods`; it answers heartbeats until it dies."""

    def __init__(self, counts: Counts, number: int, **methods: Callable[..., Any]) -> None:
        self._dead = False
        self._pending: deque[Any] = deque()
        beat = Heartbeat(f"node-{number // ACTORS_PER_NODE}", (Process(number + 1, 1),))
        for name, answer in ({"heartbeat": lambda: later(QUICK_S, beat)} | methods).items():
            setattr(self, name, Method(self, counts, name, answer))

    def die(self) -> None:
        """All calls fail, as Ray's do."""
        self._dead = True
        while self._pending:
            self.answers(self._pending.popleft())

    def answers(self, answer: Any) -> None:
        """The caller waits for `answer`."""
        if self._dead and not answer.done():
            answer.set_exception(ActorDiedError())
        elif not self._dead:
            while self._pending and (self._pending[0] is None or self._pending[0].done()):
                self._pending.popleft()
            self._pending.append(answer)


def later(seconds: float, value: Any = None) -> asyncio.Future[Any]:
    """A future that has `value` after `seconds`."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    loop.call_later(seconds, lambda: None if answer.done() else answer.set_result(value))
    return answer


def sampler(counts: Counts, number: int, shape: Shape) -> FakeActor:
    """Each group takes about `latency`, and at most `lanes` run at a time."""
    chance = random.Random(number)
    free = [0.0] * (shape.lanes or 0)

    def sample(request: SampleRequest) -> tuple[Awaitable[int], Awaitable[Any]]:
        now = asyncio.get_running_loop().time()
        begins = max(now, heapq.heappop(free)) if free else now
        ends = begins + shape.latency * chance.uniform(0.8, 1.2)
        if shape.lanes:
            heapq.heappush(free, ends)
        if request.sequence >= 0:  # not a probe
            counts.admitted.setdefault(request.sequence, now)
            counts.peak = max(counts.peak, len(counts.admitted))
        return later(ends - now, request.n * request.max_tokens), later(ends - now)

    def load(version: int) -> Awaitable[dict[str, Any]]:
        return later(WORK_S, {"version": version, "pause_seconds": WORK_S, "nbytes": 0})

    node = f"node-{number // ACTORS_PER_NODE}"
    return FakeActor(counts, number, sample_group=sample, load_weights=load, node=lambda: later(QUICK_S, node))


def verifier(counts: Counts, number: int) -> FakeActor:
    return FakeActor(counts, number, grade=lambda group, prompt: (later(VERIFY_S), group))


def rank(counts: Counts, number: int) -> FakeActor:
    version = 0

    def update(step: int, probes: object) -> Awaitable[dict[str, float]]:
        nonlocal version
        version = step + 1
        return later(WORK_S, {})

    return FakeActor(
        counts,
        number,
        rendezvous=lambda: later(QUICK_S, ("address", 1)),
        start=lambda address, port: later(QUICK_S),
        accumulate=lambda groups, step: later(WORK_S),
        update=update,
        publish=lambda receivers: later(WORK_S, Published("node-0", version, None)),
        release=lambda payload: later(QUICK_S),
    )


def monitor(counts: Counts) -> FakeActor:
    def inspect(processes: tuple[Process, ...], family: bool) -> Awaitable[dict[int, ProcessStats]]:
        return later(QUICK_S, {process.pid: ProcessStats(False, time.monotonic()) for process in processes})

    return FakeActor(counts, 0, inspect=inspect, kill=lambda processes: later(QUICK_S))


class Timed:
    """Awaits a coroutine and adds the processor time of its steps to ``counts.queue_cpu_s``."""

    def __init__(self, work: Coroutine[Any, Any, Any], counts: Counts) -> None:
        self._work, self._counts = work, counts

    def __await__(self) -> Generator[Any, None, Any]:
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waits = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as end:
                return end.value
            finally:
                self._counts.queue_cpu_s += time.thread_time() - began
            error = None
            try:
                yield waits
            except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - for the coroutine to handle
                error = raised


def queue(counts: Counts, number: int, shape: Shape, journal: Path) -> FakeActor:
    """The product's replay queue, in this process."""
    began = time.thread_time()
    real = ReplayQueue(
        prompts_per_step=shape.prompts,
        staleness=shape.staleness,
        overtake=0,
        total=shape.groups,
        groups_directory=None,
        journal=str(journal),
    )
    counts.queue_cpu_s += time.thread_time() - began

    async def timed(work: Coroutine[Any, Any, Any]) -> Any:
        return await Timed(work, counts)

    def calls(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Awaitable[Any]]:
        return lambda *arguments: asyncio.ensure_future(timed(method(*arguments)))

    def commit(positions: list[int], *groups: Any) -> Awaitable[Any]:
        now = asyncio.get_running_loop().time()
        counts.committed += len(positions)
        counts.group_seconds += sum(now - counts.admitted.pop(sequence) for sequence in positions)
        return calls(real.commit)(positions, *groups)

    async def described(timeout_s: float) -> Any:
        return (await timed(real.lease(timeout_s)))[1]

    return FakeActor(
        counts,
        number,
        version=calls(real.version),
        held=calls(real.held),
        reserve=calls(real.reserve),
        commit=commit,
        lease=lambda timeout_s: (None, asyncio.ensure_future(described(timeout_s))),
        ack=calls(real.ack),
    )
