"""One remote call: its deadline, and one sentence for whatever goes wrong with it (DESIGN.md, promise 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from ray import ObjectRef
from ray.exceptions import ActorDiedError, GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from actors.errors import InputLost

_LABELS = ("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:")  # Ray's, in the report of a death
_LONGEST = 700  # characters of a cause of death


class ActorFailure(RuntimeError):
    """An actor raised, or the run cannot go on; the message names it and says what was waited for.

    log: where the actor's logs are and how they end, for the last message of a run: whole lines, each after a newline.
    """

    log: str = ""


class ActorLost(ActorFailure):
    """An actor died, hung or missed a deadline: its next incarnation may do what this one did not."""


class ObjectLost(ActorFailure):
    """What the call needs, or its answer, went with its owner or its node. The actor that was asked is not at fault and
    did not begin: what was lost has to be made again."""


async def call(
    ref: ObjectRef | Awaitable[Any], *, owner: str, to: str, deadline_s: float, key: str | None = None
) -> Any:
    """Await `ref`.

    Args:
        owner: the actor's name.
        to: what it was asked to do, as in "sample position 17".
        deadline_s: seconds after which the wait ends with an error.
        key: the setting that `deadline_s` comes from, for the message; None: it is fixed.

    Raises:
        ObjectLost: when what the call needs was lost, and the actor did not begin.
        ActorLost: when the actor died or did not answer in time.
        ActorFailure: when it raised.
    """
    try:
        # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that meets a finished result.
        async with asyncio.timeout(deadline_s):
            return await ref
    except RayTaskError as error:  # first: Ray's copy of a remote TimeoutError is a TimeoutError too
        cause = _root(error)
        kind = ObjectLost if isinstance(cause, ObjectLostError | InputLost) else ActorFailure
        raise kind(f"{owner} failed to {to}: {_told(cause)}") from error
    except (TimeoutError, GetTimeoutError):
        raise ActorLost(f"{owner} did not {to} within {within(deadline_s, key)}") from None
    except RayActorError as error:
        raise ActorLost(f"{owner} died before it could {to}: {cause_of_death(error)}") from error
    except ObjectLostError as error:
        raise ObjectLost(f"{owner} could not {to}: {_short(str(error))}") from error
    except RayError as error:
        raise ActorLost(f"{owner} could not {to}: {_short(str(error)) or type(error).__name__}") from error


def within(seconds: float, key: str | None) -> str:
    """A time limit, and the setting that it comes from."""
    return f"{seconds:.0f} s" + (f" ({key})" if key else "")


def cause_of_death(error: RayActorError) -> str:
    """Why an actor is gone: the error of its ``__init__``, or what the system knows about its process."""
    text = str(error)
    if error.actor_init_failed:
        return _short(_last_raised(text))
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line not in ("", ActorDiedError.BASE_ERROR_MSG) and not line.startswith(_LABELS)]
    return _short(" ".join(told)) or "its process ended"


def _last_raised(text: str) -> str:
    """The error at the end of a printed traceback: what follows its last frame and the source lines of that."""
    lines = text.splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.lstrip().startswith('File "')), default=-1)
    told = lines[last_frame + 1 :]
    while len(told) > 1 and told[0].startswith("    "):
        told = told[1:]
    return " ".join(line.strip() for line in told)


def _root(error: RayTaskError) -> BaseException | None:
    """What was raised first: an argument of the call may be the answer of another, which failed."""
    cause: BaseException | None = error.cause
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    return cause


def _told(cause: BaseException | None) -> str:
    while cause is not None and cause.__cause__ is not None and not str(cause):
        cause = cause.__cause__
    text = str(cause).strip() if cause is not None else ""
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
