"""How a job ends: everything that can end it becomes one JobResult, which is printed before anything is torn down.

Exit status 2 means that nothing was started, so it is not used here: a started job completes, fails or is interrupted.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from actors.remote_calls import ActorFailure
from actors.threads import bounded
from cluster.config import RunConfig
from cluster.exit_status import FAILED, INTERRUPTED
from cluster.records.checkpoints import CheckpointError
from cluster.records.disk import RunDirectoryError, is_full
from cluster.run.processes import connect, disconnect, log_directory
from cluster.run.run import AgreementError
from cluster.run.shutdown import STOP_SECONDS, Shutdown, ShutdownRequested

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

DISCONNECT_SECONDS = 10.0  # for Ray to shut down
# Not bugs of ours. A RayError of the driver itself: a full object store or disk of Ray, a control store that is gone.
RUN_ERRORS = (ActorFailure, AgreementError, RunDirectoryError, CheckpointError, TimeoutError, RayError)


@dataclass(frozen=True)
class JobResult:
    """How a job ended: the exit status, the last message to the user, and the model directory of a completed run."""

    status: int
    message: str
    model: Path | None = None


def run_to_result(
    config: RunConfig,
    work: Callable[[Shutdown], Coroutine[Any, Any, T]],
    conclude: Callable[[T | JobResult], R],
    advice: Callable[[], str] = str,
) -> R:
    """Run the coroutine function `work` on a Ray cluster.

    Args:
        work: gets the shutdown whose requests it must obey.
        conclude: makes the returned value from the result of `work`, or from the JobResult of what ended it early;
            called while the actors still live, because disconnecting may take long.
        advice: how to continue; printed when the process has to exit at once.

    Raises:
        ConnectionError: there is no such cluster.
    """
    shutdown = Shutdown(advice)
    try:
        with shutdown.ending_start():
            connect(config)
        return conclude(_result_of(work, shutdown))
    except SystemExit:  # from a signal handler, ours or Ray's
        return conclude(JobResult(INTERRUPTED, "interrupted while Ray was starting"))
    finally:
        _disconnect()


def _result_of(work: Callable[[Shutdown], Coroutine[Any, Any, T]], shutdown: Shutdown) -> T | JobResult:
    """The result of `work`, or the JobResult of what ended it early; bugs of ours are raised."""
    try:
        return asyncio.run(shutdown.run(work(shutdown)))
    except ShutdownRequested:
        return JobResult(INTERRUPTED, "interrupted")
    except asyncio.CancelledError:
        message = f"interrupted; the step or checkpoint in progress did not end within {STOP_SECONDS:g} s"
        return JobResult(INTERRUPTED, message)
    except (BaseExceptionGroup, OSError, *RUN_ERRORS) as error:
        cause = _root_cause(error)
        logger.error("the run ends for this reason:", exc_info=error)
        if _is_bug(cause):
            raise cause from error.__cause__
        return JobResult(FAILED, f"{cause}{_logs(cause)}")


def _root_cause(error: BaseException) -> BaseException:
    """Pick the root cause from an exception group; any other exception is its own."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return min((_root_cause(one) for one in error.exceptions), key=_distance_from_cause)


def _distance_from_cause(error: BaseException) -> int:
    """Sort key: 0 for bugs, 1 for primary failures, 2 for timeouts caused by another failure. Ties keep their order."""
    if _is_bug(error):
        return 0
    # An actor that failed raises from Ray's exception. A call that only waited for that actor has no __cause__.
    return 2 if isinstance(error, ActorFailure) and error.__cause__ is None else 1


def _is_bug(error: BaseException) -> bool:
    """Whether it is none of the errors that end a run without being a bug."""
    return not (isinstance(error, RUN_ERRORS) or is_full(error))


def _logs(cause: BaseException) -> str:
    """Where to look further: the end of the failed actor's log, or the directory of all logs."""
    if not isinstance(cause, ActorFailure):
        return ""
    return cause.log or (f"\nlogs of the actors, on each node: {log_directory()}" if ray.is_initialized() else "")


def _disconnect() -> None:
    try:
        bounded(disconnect, owner="Ray", to="shut down", deadline_s=DISCONNECT_SECONDS)
    except TimeoutError as error:
        atexit.unregister(ray.shutdown)  # it would hang again
        print(f"{error}; all its processes are ended", file=sys.stderr, flush=True)


async def starting(work: Coroutine[Any, Any, T]) -> T:
    """Await the start of actors.

    Raises:
        ActorFailure: which actor could not start and why, and that nothing was trained.
    """
    try:
        return await work
    except ActorFailure as error:
        failure = ActorFailure(f"the run could not start, nothing was trained: {error}")
        failure.log = error.log
        raise failure from error
