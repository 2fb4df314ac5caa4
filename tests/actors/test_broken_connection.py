"""A connection between driver and actor breaks, on a real Ray cluster: the actor survives and completes its call."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow


class Worker:
    """An async actor, as all of ours."""

    def __init__(self) -> None:
        self.done = 0

    async def pid(self) -> int:
        return os.getpid()

    async def work(self) -> int:
        await asyncio.sleep(3)
        self.done += 1
        return self.done

    async def finished(self) -> int:
        return self.done


@pytest.fixture
def worker() -> Iterator[Any]:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    yield ray.remote(Worker).options(max_concurrency=10).remote()
    ray.shutdown()


def break_connections(pid: int) -> int:
    """Shut down this process's connections to the servers of a process of this machine; their number."""
    ports = {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    ours = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port in ports]
    for connection in ours:
        with socket.socket(fileno=os.dup(connection.fd)) as end:
            end.shutdown(socket.SHUT_RDWR)
    return len(ours)


def test_the_actor_answers_again_and_its_call_was_carried_out_once(worker: Any) -> None:
    from actors.remote_calls import ActorUnreachable, call

    async def ask(method: str) -> Any:
        return await call(getattr(worker, method).remote(), owner="sampler-0", to=method, deadline_s=30)

    async def scenario() -> None:
        pid = await ask("pid")
        working = asyncio.create_task(ask("work"))
        await asyncio.sleep(1)
        assert break_connections(pid) > 0
        with pytest.raises(ActorUnreachable, match="sampler-0 could not be reached while it was to work"):
            await working
        assert await ask("pid") == pid, "Ray connects again"
        while not await ask("finished"):
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        assert await ask("finished") == 1

    asyncio.run(asyncio.wait_for(scenario(), 60))
