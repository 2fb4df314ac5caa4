"""Supervision: a lost actor ends the work, finished work ends the watching, and every wait names its owner."""

from __future__ import annotations

import asyncio
import gc
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 10


def actor(lifeline):
    """What the supervisor needs of an actor handle: `lifeline.remote(seconds)` returns something to await."""
    return SimpleNamespace(lifeline=SimpleNamespace(remote=lambda seconds: lifeline()))


def test_work_that_blocks_the_loop_past_a_lifeline_still_ends():
    """A cancellation that meets a finished lifeline used to be swallowed: the run hung after its last step."""
    from actors.supervision import Supervisor

    async def scenario():
        supervisor = Supervisor()
        for i in range(5):
            supervisor.add(f"actor-{i}", actor(lambda: asyncio.sleep(0.05)))

        async def work():
            await asyncio.sleep(0.01)
            time.sleep(0.3)  # all lifelines end while nobody can look
            return "done"

        return await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    assert asyncio.run(scenario()) == "done"


def test_a_lost_actor_ends_the_work_with_its_name():
    from ray.exceptions import ActorDiedError

    from actors.supervision import ActorFailure, Supervisor

    async def dies():
        await asyncio.sleep(0.05)
        raise ActorDiedError()

    async def scenario():
        supervisor = Supervisor()
        supervisor.add("sampler-3", actor(dies))
        await supervisor.run(asyncio.sleep(LIMIT_S))

    started = time.monotonic()
    with pytest.raises(ActorFailure, match="sampler-3 died while it was to show a sign of life"):
        asyncio.run(scenario())
    assert time.monotonic() - started < LIMIT_S / 2


def test_the_echoes_of_a_lost_actor_print_no_traceback():
    """The watch sees the loss first; the work, about to be cancelled, fails of the same cause: one message, not two."""
    from ray.exceptions import ActorDiedError

    from actors.supervision import ActorFailure, Supervisor

    complaints = []

    async def dies():
        raise ActorDiedError()

    async def work():
        try:
            await asyncio.sleep(LIMIT_S)
        except asyncio.CancelledError:
            raise ExceptionGroup("rollouts", [ActorFailure("queue died")]) from None

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        supervisor = Supervisor()
        supervisor.add("queue", actor(dies))
        with pytest.raises(ActorFailure, match="queue died while it was to show a sign of life"):
            await supervisor.run(work())

    asyncio.run(scenario())
    gc.collect()  # a task complains when it is forgotten
    assert complaints == []


def test_a_late_answer_names_owner_and_deadline():
    from actors.supervision import ActorFailure, call

    with pytest.raises(ActorFailure, match="verifier-0 did not grade position 7 within 0 s"):
        asyncio.run(call(asyncio.sleep(5), owner="verifier-0", to="grade position 7", deadline_s=0.05))
