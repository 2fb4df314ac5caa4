"""A cluster in one process and in virtual time: the real supervisor, learner group and broadcaster over fake actors.

Nodes, actors, shared memory and Ray's object store fail as the real ones do: calls to a dead actor raise what Ray
raises, objects die with their owner, shared memory with its node. Time is simulated, so that minutes of waiting
take no time, and a wait that cannot end is an error and not a hang.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.actors.fleet.simulated_actors import Actor, Group, Monitor, Rank, Sampler, SleepingRank

if TYPE_CHECKING:
    from actors.fleet.shared_cards import Cards
    from actors.fleet.supervision import Supervisor
    from actors.settings import DeadlineSettings


STEPS = 4


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while every task waits."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        self._loop.now += timeout
        return []


@dataclass(eq=False)
class Node:
    """A machine; `shared` holds the weight files in its shared memory, by path with the writer's PID."""

    name: str
    alive: bool = True
    shared: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """`victim` is lost `after` seconds after the `nth` occurrence of `moment`.

    victim: "learner", "sampler-1", ... (the process), "node of learner", ..., "monitor" (all node monitors),
    "load of sampler-1" (its next load begins and fails), or "sleep of learner", ... (it cannot free its memory).
    """

    moment: str
    nth: int
    after: float
    victim: str


class World:
    """The nodes, the actors and the faults. Node 0 is the driver's and is never lost."""

    def __init__(self, seed: int, faults: list[Fault], nodes: int = 3) -> None:
        self.random = random.Random(seed)
        self.nodes = [Node(f"node-{i}") for i in range(nodes)]
        self.actors: dict[str, Actor] = {}  # existing ones, by name
        self.everyone: list[Actor] = []  # also earlier ones, which may still be killed
        self.monitors: list[Monitor] = []
        self.actual_losses: Counter[str] = Counter()  # by unit
        self.log: list[str] = []
        self._faults = faults
        self._moments: Counter[str] = Counter()
        self._pids = 100
        self.started = False
        self.transport = "auto"  # as `broadcast.transport`; "nccl": as that back-end
        self.groups: dict[str, Group] = {}  # by name
        self.sample_s = 2.0  # longest time for the groups of a step
        self.learner_sleeps = False  # as `learner.sleep`
        self.collisions: list[str] = []  # what cannot be in the memory of one card at the same time

    def check_cards(self) -> None:
        """Record uses that do not fit into the memory of a card together; each sampler shares one with the learner."""
        uses = [(actor.name, actor.memory) for actor in self.everyone if not actor.dead and actor.memory]
        ranks = {how for name, how in uses if name == "learner"}
        for name, how in uses:
            conflicting = {"starts": {"trains", "works"}, "awake": {"trains"}}.get(how or "", set())
            if name != "learner" and conflicting & ranks:
                self.collisions.append(f"{name} {how} while the learner {conflicting & ranks}")

    def pid(self) -> int:
        self._pids += 1
        return self._pids

    def place(self) -> Node:
        return self.random.choice([node for node in self.nodes if node.alive])

    def moment(self, name: str) -> None:
        """Inject the faults that wait for this moment. None before the start, when no actor is replaced yet."""
        if not self.started:
            return
        self._moments[name] += 1
        for fault in self._faults:
            if (fault.moment, fault.nth) == (name, self._moments[name]):
                asyncio.get_running_loop().call_later(fault.after, self._inject, fault)

    def _inject(self, fault: Fault) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():.2f} {fault}")
        if fault.victim == "monitor":
            for monitor in self.monitors:
                monitor.die()
            return
        name = fault.victim.rpartition(" of ")[2]
        victim = self.actors.get(name)
        if victim is None or victim.dead:
            return
        if fault.victim.startswith("load of "):
            victim.bad_loads += 1
        elif fault.victim.startswith("sleep of "):
            victim.bad_sleeps += 1
        elif fault.victim.startswith("node of "):
            self._lose(victim.place)
        elif fault.victim.startswith("hang of "):
            self.actual_losses[victim.name] += 1
            victim.hung = True
        else:
            self.actual_losses[victim.name] += 1
            victim.die()

    def _lose(self, node: Node) -> None:
        if node is self.nodes[0] or not node.alive:
            return
        node.alive = False
        node.shared.clear()
        self.nodes.append(Node(f"node-{len(self.nodes)}"))
        for actor in list(self.actors.values()):
            if actor.place is node and not actor.dead:
                self.actual_losses[actor.name] += 1
                # Ray detects the loss of a node seconds later, and not for all actors at once.
                actor.die(reported_after=self.random.uniform(0.0, 3.0))
        for monitor in self.monitors:
            if monitor.place is node:
                monitor.die()


class Job:
    """A learner, samplers and the broadcaster between them, trained for some steps while faults are injected.

    Args:
        cards: makes what shares the cards of the learner and the samplers; None: each has its own.
    """

    def __init__(
        self,
        world: World,
        samplers: int,
        transport: str = "auto",
        cards: Callable[[Supervisor, DeadlineSettings], Cards] | None = None,
    ) -> None:
        from actors.fleet.broadcaster import Broadcaster
        from actors.fleet.learner_group import LearnerGroup
        from actors.fleet.shared_cards import Cards
        from actors.fleet.supervision import Supervisor
        from actors.fleet.units import Incident, Member, Unit
        from actors.settings import BroadcastSettings, DeadlineSettings, SupervisionSettings
        from actors.weights import make_transfer

        self.world = world
        world.transport = transport
        self.incidents: defaultdict[str, list[str]] = defaultdict(list)

        def report(incident: Incident) -> None:
            if incident.recovered_s is None:
                self.incidents[incident.unit].append(incident.reason)

        def node_monitor(node: str) -> Monitor:
            place = next(n for n in world.nodes if n.name == node)
            made = Monitor(world, "monitor", place)
            if not place.alive:
                made.die()
            world.monitors.append(made)
            return made

        self.supervisor = Supervisor(
            SupervisionSettings(max_restarts=1000, backoff_s=0.5),
            start_s=300.0,
            spawn_monitor=node_monitor,
            kill=lambda handle: handle.dead or handle.die(),
            report=report,
        )
        deadlines = DeadlineSettings()

        def spawn(kind: type[Actor], name: str) -> Callable[[int], Actor]:
            def make(incarnation: int) -> Actor:
                world.actors[name] = kind(world, name, world.place())
                world.everyone.append(world.actors[name])
                return world.actors[name]

            return make

        self.cards = cards(self.supervisor, deadlines) if cards else Cards()
        rank = Member("learner", spawn(SleepingRank if world.learner_sleeps else Rank, "learner"))
        unit = self.supervisor.add(Unit("learner", [rank], self._prepare_learner))
        self.learner = LearnerGroup(
            unit,
            self.supervisor,
            deadlines,
            origin=lambda: (0, None),
            history=lambda step: f"groups {step}",
            cards=self.cards,
            sleeps=world.learner_sleeps,
        )
        settings = BroadcastSettings(backend="nccl") if transport == "nccl" else BroadcastSettings(transport=transport)
        self.broadcaster = Broadcaster(
            self.learner, make_transfer(settings, "run"), deadlines, self.supervisor, 1, self.cards
        )
        self.samplers = [Member(f"sampler-{i}", spawn(Sampler, f"sampler-{i}")) for i in range(samplers)]
        for member in self.samplers:
            self.cards.add(self.supervisor.add(Unit(member.name, [member], lambda m=member: self._prepare(m))))

    async def _prepare_learner(self) -> None:
        await self.learner.prepare()
        if not self.learner.training:
            await self.broadcaster.wake()

    async def _prepare(self, member: Any) -> None:
        from actors.remote_calls import call

        async with self.cards.sampler_turn(member, member.incarnation, to="start its engine"):
            await call(member.actor().start.remote(), owner=member.name, to="start", deadline_s=300)
        await self.broadcaster.join(member)

    async def train(self, steps: int) -> None:
        """Run the control loop; after every broadcast check that all serving samplers hold the new weights."""
        await self.supervisor.start(*self.supervisor.units)
        self.world.started = True
        await self.supervisor.run(self._loop(steps))

    async def _loop(self, steps: int) -> None:
        for step in range(steps):
            probes = asyncio.ensure_future(self._probe())
            await self.learner.step(f"groups {step}", step, probes)
            await self.broadcaster.broadcast(step + 1)
            self._check(step + 1)
            self.world.moment("ack")
            await self._sample()
        async with asyncio.timeout(3600):
            while not all(unit.serving for unit in self.supervisor.units):
                await self.supervisor.changes.wait()
        self._check(steps)

    async def _sample(self) -> None:
        """The groups of a step: at least one sampler must take requests."""
        self.world.moment("sample")
        await asyncio.sleep(self.world.random.uniform(0.5, 1.0) * self.world.sample_s)
        async with asyncio.timeout(3600):
            while not any(member.serving and not member.asleep for member in self.samplers):
                await self.supervisor.changes.wait()

    async def _probe(self) -> list:
        await asyncio.sleep(self.world.random.choice([1.0, 1.0, 1.0, 25.0]))
        return []

    def _check(self, version: int) -> None:
        for member in self.samplers:
            if member.serving and not (member.actor().dead or member.actor().hung):
                held = member.actor().__dict__.get("version")
                assert held == version, f"{member.name} serves version {held} after the broadcast of {version}"


def run(
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    transport: str = "auto",
    *,
    samplers: int = 3,
    cards: Callable[[Supervisor, DeadlineSettings], Cards] | None = None,
) -> Job:
    """Train for :data:`STEPS` steps in `world` and check its invariants at the end."""
    import actors.fleet.broadcaster
    import actors.fleet.learner_group
    import actors.fleet.node_monitors
    import actors.fleet.supervision
    import actors.fleet.watch

    loop = VirtualLoop()
    loop.set_exception_handler(lambda _, context: None)
    timed = actors.fleet.broadcaster, actors.fleet.supervision, actors.fleet.watch, actors.fleet.node_monitors
    for module in timed:
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))

    async def at_once(work, **_):
        return work()

    monkeypatch.setattr(actors.fleet.learner_group, "in_daemon_thread", at_once)

    async def scenario() -> Job:
        job = Job(world, samplers, transport, cards)
        async with asyncio.timeout(20_000):
            await job.train(STEPS)
        return job

    try:
        job = loop.run_until_complete(scenario())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_later(0.0, loop.stop)
        loop.run_forever()
        loop.close()
    for unit, reasons in job.incidents.items():
        assert len(reasons) <= world.actual_losses[unit], f"{unit} was replaced more often than it failed: {reasons}"
    left = {node.name: node.shared for node in world.nodes if node.shared}
    assert not left, f"weights left in shared memory: {left}"
    return job
