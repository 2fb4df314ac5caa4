"""Awaits one remote call with a deadline, and turns Ray's errors into one-sentence messages (docs/promises.md, 5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ray import ObjectRef
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from actors.errors import InputLost
from actors.process_stats import INSPECT_SECONDS
from actors.threads import in_daemon_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LABELS = ("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:")  # of Ray's death report
_NODE_DIED = "because its node has died"  # in Ray's death report; its exception has no field for it
_NODE_STOPPED = "node was terminated expectedly"  # the same
_MAX_CHARACTERS = 700  # of a quoted cause


class ActorFailure(RuntimeError):
    """An actor raised, or the run cannot continue; the message names the actor and the call.

    log: paths and last lines of the actor's logs, for the final message; each line follows a newline.
    """

    log: str = ""


class ActorLost(ActorFailure):
    """An actor died, hung or missed a deadline; retry with its replacement."""


class ActorUnreachable(ActorLost):
    """The connection to an actor broke, and Ray does not report its death: the actor may live, and may have carried out
    the call, whose answer is lost.

    Ray does not retry our calls, because most must not run twice: a gradient, a lease of groups, a weight update. For
    these calls the actor counts as lost, and its replacement starts from a known state. A heartbeat, a sampled group
    and its grades can be requested again.
    """


class NodeLost(ActorLost):
    """An actor was lost with its node. graceful: that node ended after a notice, or by SIGTERM to its raylet."""

    graceful: bool = False


class ObjectLost(ActorFailure):
    """An argument or the result was lost with its owner or node. The called actor is not at fault: it did not begin the
    call or can repeat it. The lost object must be created again."""


async def ask_ray(question: Callable[[], T], *, to: str) -> T | None:
    """The answer of Ray's blocking API, asked in a thread. None, with a warning, if Ray does not answer in time."""
    try:
        return await in_daemon_thread(question, owner="Ray", to=to, deadline_s=INSPECT_SECONDS)
    except (TimeoutError, RayError) as error:
        logger.warning("%s", error)
        return None


async def call(
    ref: ObjectRef | Awaitable[Any], *, owner: str, to: str, deadline_s: float, key: str | None = None
) -> Any:
    """Await `ref`.

    Args:
        owner: the actor's name.
        to: what the actor does, as in "sample position 17".
        deadline_s: seconds after which the wait ends with an error.
        key: the setting that `deadline_s` comes from, for the message; None: a constant.

    Raises:
        ObjectLost: an argument was lost; the actor is not at fault.
        NodeLost: the actor died because its node did, as Ray reports.
        ActorUnreachable: the connection to it broke; it may have carried out the call.
        ActorLost: the actor died or did not answer in time.
        ActorFailure: the actor raised.
    """
    try:
        # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that arrives with the result.
        async with asyncio.timeout(deadline_s):
            return await ref
    except RayTaskError as error:  # first: Ray's copy of a remote TimeoutError is a TimeoutError too
        cause = _root(error)
        logger.warning("%s failed to %s:\n%s", owner, to, error)
        kind = ObjectLost if isinstance(cause, ObjectLostError | InputLost) else ActorFailure
        raise kind(f"{owner} failed to {to}: {_message(cause)}") from error
    except (TimeoutError, GetTimeoutError):
        raise ActorLost(f"{owner} did not {to} within {within(deadline_s, key)}") from None
    except ActorUnavailableError as error:  # no report of its death came within a second of the broken connection
        raise ActorUnreachable(
            f"{owner} could not be reached while it was to {to}: the connection to it broke, and Ray does not report "
            f"its death, so it may still have done it ({_short(str(error))})"
        ) from error
    except RayActorError as error:
        graceful = error.preempted or _NODE_STOPPED in str(error)
        message = f"{owner} died before it could {to}: {cause_of_death(error)}"
        if not graceful and _NODE_DIED not in str(error):
            raise ActorLost(message) from error
        lost = NodeLost(message)
        lost.graceful = graceful
        raise lost from error
    except ObjectLostError as error:
        raise ObjectLost(f"{owner} could not {to}: {_short(str(error))}") from error
    except RayError as error:
        raise ActorLost(f"{owner} could not {to}: {_short(str(error)) or type(error).__name__}") from error


def within(seconds: float, key: str | None) -> str:
    """A time limit and the setting that it comes from, as text."""
    return f"{seconds:.0f} s" + (f" ({key})" if key else "")


def cause_of_death(error: RayActorError) -> str:
    """Why an actor died: the error of its ``__init__``, or what Ray reports about its process."""
    text = str(error)
    if error.actor_init_failed:
        return _short(_last_raised(text))
    lines = [line.strip() for line in text.splitlines()]
    causes = [
        line for line in lines if line not in ("", ActorDiedError.BASE_ERROR_MSG) and not line.startswith(_LABELS)
    ]
    return _short(" ".join(causes)) or "its process ended"


def _last_raised(text: str) -> str:
    """The error in the last lines of a printed traceback, after the last frame and its source lines."""
    lines = text.splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.lstrip().startswith('File "')), default=-1)
    error = lines[last_frame + 1 :]
    while len(error) > 1 and error[0].startswith("    "):
        error = error[1:]
    return " ".join(line.strip() for line in error)


def _root(error: RayTaskError) -> BaseException | None:
    """The original error: an argument of the call may be the result of another call that failed."""
    cause: BaseException | None = error.cause
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    return cause


def _message(cause: BaseException | None) -> str:
    while cause is not None and cause.__cause__ is not None and not str(cause):
        cause = cause.__cause__
    text = str(cause).strip() if cause is not None else ""
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]} …"
