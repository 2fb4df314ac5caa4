"""Waiting for actors: every wait has an owner, a deadline and a message (DESIGN.md, promise 5).

Two tools. :func:`call` awaits one remote call and turns Ray's errors into one sentence that names the actor. A
:class:`Supervisor` watches all actors of a run between calls: each holds a *lifeline*, a call that returns only after
some seconds, so that the death of a process is seen at once, also while nothing is asked of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any

from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

LIFELINE_SECONDS = 5.0
CANCEL_SECONDS = 10.0  # for cancelled waits to end; whatever holds on longer must not hold the run
LIFELINE_GRACE_SECONDS = 45.0  # a busy machine may answer late; a stopped process never does


class ActorFailure(RuntimeError):
    """An actor died, hung or raised; the message names it and says what was waited for."""


@dataclass(frozen=True)
class Member:
    """An actor of the run under the name that messages use."""

    name: str
    handle: ActorHandle


async def call(ref: ObjectRef | Awaitable[Any], *, owner: str, to: str, deadline_s: float) -> Any:
    """Await `ref`.

    Args:
        owner: the actor's name.
        to: what it was asked to do, as in "sample position 17".
        deadline_s: seconds after which the wait ends with an error.

    Raises:
        ActorFailure: when the actor died, raised, or did not answer in time.
    """
    try:
        # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that meets a finished result.
        async with asyncio.timeout(deadline_s):
            return await ref
    except RayTaskError as error:  # first: Ray's copy of a remote TimeoutError is a TimeoutError too
        raise ActorFailure(f"{owner} failed to {to}: {_root_message(error)}") from error
    except (TimeoutError, GetTimeoutError):
        raise ActorFailure(f"{owner} did not {to} within {deadline_s:.0f} s (see the section deadlines)") from None
    except RayActorError as error:
        raise ActorFailure(f"{owner} died while it was to {to}: {_first_line(error)}") from error
    except RayError as error:
        raise ActorFailure(f"{owner} could not {to}: {_first_line(error)}") from error


class Supervisor:
    """Notices the death of any actor of the run, whatever the run is waiting for."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    def add(self, name: str, handle: ActorHandle) -> Member:
        member = Member(name, handle)
        self.members.append(member)
        return member

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` until it ends or until an actor is lost, whichever comes first.

        Raises:
            ActorFailure: naming the actor that was lost; `work` is cancelled.
        """
        main = asyncio.create_task(work)
        watches = [asyncio.create_task(self._watch(member)) for member in self.members]
        try:
            await asyncio.wait([main, *watches], return_when=asyncio.FIRST_COMPLETED)
            lost = next((w for w in watches if w.done()), None)
            if lost is not None and not (main.done() and main.exception() is None):
                lost.result()
            return await main
        finally:
            for task in (main, *watches):
                task.cancel()
            ended, _ = await asyncio.wait([main, *watches], timeout=CANCEL_SECONDS)
            for task in ended:
                # One failure is raised above. The others are its echoes (every wait for the same lost actor fails):
                # asked for here, so that asyncio does not print a traceback for each after the message.
                if not task.cancelled():
                    task.exception()

    async def _watch(self, member: Member) -> None:
        while True:
            await call(
                member.handle.lifeline.remote(LIFELINE_SECONDS),
                owner=member.name,
                to="show a sign of life",
                deadline_s=LIFELINE_SECONDS + LIFELINE_GRACE_SECONDS,
            )


def _root_message(error: RayTaskError) -> str:
    cause = error.cause
    while getattr(cause, "__cause__", None) is not None and not str(cause):
        cause = cause.__cause__
    text = str(cause).strip() if cause is not None else ""
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
