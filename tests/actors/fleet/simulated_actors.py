"""The fake actors of :mod:`tests.actors.fleet.simulated_cluster`: calls, objects and weights that get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.actors.fleet.simulated_cluster import Node, World


class Actor:
    """A fake actor's handle: ``actor.method.remote(...)`` runs the coroutine method `_method` in `latency`."""

    def __init__(self, world: World, name: str, place: Node) -> None:
        self.world, self.name, self.place = world, name, place
        self.pid = world.pid()
        self.dead = False  # the process
        self.reported: asyncio.Event = asyncio.Event()  # Ray reports the death to callers
        self.bad_loads = self.bad_sleeps = 0
        self.hung = False
        self.memory: str | None = None  # how the process uses the card that samplers share with the learner

    def use(self, how: str) -> None:
        """Change how the process uses the memory of the shared card, and check that all uses fit."""
        self.memory = how
        self.world.check_cards()

    def die(self, reported_after: float = 0.0) -> None:
        self.dead = True
        asyncio.get_running_loop().call_later(reported_after, self.reported.set)

    def __getattr__(self, method: str) -> Any:
        work = object.__getattribute__(self, f"_{method}")
        return SimpleNamespace(remote=lambda *arguments: self._call(work, arguments))

    async def _call(self, work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
        from ray.exceptions import ActorDiedError

        running = asyncio.ensure_future(self._run(work, arguments))
        lost = asyncio.ensure_future(self.reported.wait())
        try:
            await asyncio.wait([running, lost], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise ActorDiedError
            return running.result()
        finally:
            running.cancel()
            lost.cancel()

    async def _run(self, work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
        await self._pause(0.05)
        try:
            result: Any = await work(*arguments)
            await self._pause(0.05)
        except Exception:
            if not self.dead:
                raise
        if self.dead:
            await asyncio.sleep(1e9)  # never answers; the caller gets the reported death
        return result

    async def _pause(self, longest: float) -> None:
        await asyncio.sleep(self.world.random.uniform(0.0, longest))
        if self.dead or self.hung:
            await asyncio.sleep(1e9)

    async def _node(self) -> str:
        return self.place.name

    async def _heartbeat(self) -> Any:
        from actors.process_stats import Heartbeat, Process

        return Heartbeat(self.place.name, (Process(self.pid, 1),))


class Monitor(Actor):
    """The node monitor: reports no process stats, and kills processes."""

    async def _inspect(self, processes: Any, family: bool = False) -> dict:
        return {}

    async def _tail(self, logs: Any) -> dict:
        return {}

    async def _kill(self, processes: Any) -> None:
        pids = {process.pid for process in processes}
        for actor in self.world.actors.values():
            if actor.pid in pids and not actor.dead:
                actor.die()
        for path in [path for path, writer in self.place.shared.items() if writer in pids]:
            del self.place.shared[path]


@dataclass(frozen=True)
class Reference:
    """An object in Ray's store."""

    owner: Actor


@dataclass
class Group:
    """Samplers that receive one update together; they do not see each other's death."""

    owner: Actor
    unready: set[int]  # ranks
    members: list[Actor] = field(default_factory=list)
    complete: set[str] = field(default_factory=set)
    stopped: bool = False

    @property
    def over(self) -> bool:
        return self.stopped or self.owner.dead

    @property
    def can_end(self) -> bool:
        """Whether no member is missing or died before it had everything."""
        return not self.unready and all(not one.dead or one.name in self.complete for one in self.members)


class Sampler(Actor):
    version: int | None = None
    broken = False

    async def _start(self) -> None:
        self.use("starts")
        self.world.moment("engine")
        await self._pause(20.0)
        self.use("awake")
        self.version = 0
        self.world.moment("join")

    async def _sleep(self) -> float:
        self.world.moment("sleep")
        await self._pause(1.0)
        if self.bad_sleeps:
            self.broken = True
            self.world.actual_losses[self.name] += 1
            raise _task_error(RuntimeError("memory usage increased after sleeping"))
        self.use("asleep")
        self.version = -1  # the weights are gone
        return 1.0

    async def _load_weights(self, version: int, manifests: list[dict], *data: Reference) -> dict[str, Any]:
        await self._resolve(data)
        if self.version is None or self.broken:
            raise _task_error(RuntimeError("the engine is not running"))
        self.world.moment("load")
        await self._pause(0.02)
        if manifests and "group" in manifests[0]:
            return await self._load_together(version, manifests[0]["group"])
        paths = [m["path"] for m in manifests if m["path"]]
        if not all(path in self.place.shared for path in paths):
            from actors.errors import InputLost

            raise _task_error(InputLost("a bucket is gone"))
        if not paths and not data:
            raise _task_error(RuntimeError("the update lacks every tensor"))
        await self._load(version)
        return {"version": version, "pause_seconds": 0.1, "nbytes": 100}

    async def _load(self, version: int) -> None:
        if self.bad_loads:
            self.bad_loads -= 1
            self.broken = True
            self.world.actual_losses[self.name] += 1
            raise _task_error(RuntimeError("loading began and failed"))
        self.use("awake")
        self.world.moment("wake")
        await self._pause(0.5)
        self.version = version

    async def _load_together(self, version: int, described: dict[str, Any]) -> dict[str, Any]:
        """Like ``NcclTransfer``, without tensors."""
        from actors.errors import InputLost

        group = self.world.groups[described["name"]]
        group.members.append(self)
        group.unready.discard(described["rank"])
        while not group.can_end and not group.over:
            await asyncio.sleep(0.05)
        self.world.moment("receive")
        await self._pause(0.5)
        while not group.can_end and not group.over:
            await asyncio.sleep(0.05)
        if group.over:
            raise _task_error(InputLost("the weights stopped arriving"))
        group.complete.add(self.name)
        await self._load(version)
        return {"version": version, "pause_seconds": 0.1, "nbytes": 100}

    async def _resolve(self, data: tuple[Reference, ...]) -> None:
        """Ray fetches the arguments before the method begins."""
        from ray import exceptions

        await self._pause(0.3)
        if any(reference.owner.dead for reference in data):
            await self._pause(3.0)
            kind = self.world.random.choice(["owner", "lost", "count", "fetch"])
            if kind == "owner":
                raise _task_error(exceptions.OwnerDiedError("00", None, ""))
            if kind == "lost":
                raise exceptions.ObjectLostError("00", None, "")
            if kind == "count":
                raise _task_error(exceptions.ReferenceCountingAssertionError("00", None, ""))
            raise _task_error(exceptions.ObjectFetchTimedOutError("00", None, ""))


class Rank(Actor):
    version = 0
    gradient: int | None = None

    async def _rendezvous(self) -> tuple[str, int]:
        return "address", 1

    async def _start(self, address: str, port: int) -> None:
        self.use("works")
        await self._pause(10.0)
        self.use("rests")

    async def _accumulate(self, groups: Any, step: int) -> None:
        assert self.gradient is None
        self.use("trains")
        self.world.moment("accumulate")
        await self._pause(1.0)
        self.gradient = step

    async def _update(self, step: int, probes: Any) -> dict[str, float]:
        if self.gradient != step:
            raise _task_error(RuntimeError(f"step {step}: there is no gradient"))
        self.world.moment("update")
        await self._pause(0.5)
        self.gradient, self.version = None, step + 1
        self.use("rests")
        return {"learned": float(step)}

    async def _publish(self, receivers: list[Any]) -> Any:
        """Like the back-ends, without tensors."""
        from actors.weights import Published
        from actors.weights.host import HostPayload

        self.use("works")
        self.world.moment("publish")
        await self._pause(0.2)
        self.use("rests")
        if self.world.transport == "nccl":
            return Published(self.place.name, self.version, self._grouped(receivers))
        nodes = [receiver.node for receiver in receivers]
        here, shared, packed = self.place.name, [], []
        shareable = self.world.transport != "object_store"
        if shareable and here in nodes:
            path = f"/dev/shm/{self.pid}-{self.world.pid()}"
            self.place.shared[path] = self.pid
            shared.append({"path": path})
        if not shareable or any(node != here for node in nodes):
            packed = [({"path": ""}, Reference(self)), ({"path": ""}, Reference(self))]
        await self._pause(0.2)
        return Published(here, self.version, HostPayload(shared, packed))

    def _grouped(self, receivers: list[Any]) -> Any:
        from actors.weights.collective import Place
        from actors.weights.nccl import NcclPayload

        place = Place("host", 1, f"group-{self.world.pid()}", 1 + len(receivers), "cpu")
        ranks = {(r.name, r.incarnation): i for i, r in enumerate(receivers, start=1)}
        self.world.groups[place.name] = Group(self, set(ranks.values()))
        return NcclPayload(place, 1, ranks, [{"path": ""}], 1.0)

    async def _release(self, payload: Any) -> None:
        self.world.moment("release")
        await self._pause(0.1)
        if self.world.transport == "nccl":
            self.world.groups[payload.place.name].stopped = True
            return
        for manifest in payload.manifests:
            self.place.shared.pop(manifest["path"], None)


class SleepingRank(Rank):
    """As with ``learner.sleep``: its states are on the card from its start, or from `wake`, until `sleep`."""

    moved = False

    async def _start(self, address: str, port: int) -> None:
        self.use("trains")  # as much memory as for a step
        self.world.moment("learner-start")
        await self._pause(10.0)

    async def _sleep(self) -> None:
        self.world.moment("offload")
        await self._pause(1.0)
        if self.bad_sleeps:
            self.world.actual_losses[self.name] += 1
            raise _task_error(MemoryError("no host memory"))
        self.moved = True
        self.use("rests")

    async def _wake(self) -> None:
        self.use("trains")
        self.world.moment("reload")
        await self._pause(1.0)
        self.moved = False

    async def _accumulate(self, groups: Any, step: int) -> None:
        assert not self.moved
        await super()._accumulate(groups, step)

    async def _update(self, step: int, probes: Any) -> dict[str, float]:
        row = await super()._update(step, probes)
        self.use("trains")
        return row

    async def _publish(self, receivers: list[Any]) -> Any:
        assert self.moved, "a sampler needs the memory"
        return await super()._publish(receivers)


def _task_error(cause: Exception) -> Exception:
    from ray.exceptions import RayTaskError

    return RayTaskError("method", "traceback", cause)
