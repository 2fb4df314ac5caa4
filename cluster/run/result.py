"""How a job ends, whatever ends it: what runs on the cluster is carried out, and its end becomes one JobResult.

Exit status 2 says that nothing was started, so nothing here makes it: from the first actor on, what cannot go on has
failed, with the cause and with what was kept.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.fleet.supervision import ActorFailure
from actors.threads import bounded
from cluster.config import RunConfig
from cluster.exit_status import FAILED, INTERRUPTED
from cluster.records.checkpoints import CheckpointError
from cluster.records.run_directory import RunDirectoryError, is_full
from cluster.run.processes import connect, disconnect, log_directory
from cluster.run.run import AgreementError
from cluster.run.shutdown import LEAVE_SECONDS, Shutdown, ShutdownRequested

DISCONNECT_SECONDS = 10.0  # for Ray to shut down
ENDINGS = (ActorFailure, AgreementError, RunDirectoryError, CheckpointError, TimeoutError)  # of a run under way


@dataclass(frozen=True)
class JobResult:
    """How a job ended: the process's exit status, the sentence that a person reads, and the model of a finished run."""

    status: int
    message: str
    model: Path | None = None


def run_to_result(
    config: RunConfig,
    work: Callable[[Shutdown], Coroutine[Any, Any, Any]],
    conclude: Callable[[Any], Any] = lambda result: result,
    last_words: Callable[[], str] = str,
) -> Any:
    """Run the coroutine function `work` on a Ray cluster.

    Args:
        work: gets the shutdown that it must heed.
        conclude: makes what is returned of its result, or of the JobResult of what ended it early; called while the
            actors still live, because their end may take its time.
        last_words: how to go on; told when the process has to be left at once.

    Raises:
        ConnectionError: there is no such cluster.
    """
    shutdown = Shutdown(last_words)
    shutdown.listen()
    try:
        connect(config)
        shutdown.listen()  # Ray has put a handler of its own
        return conclude(_result_of(work, shutdown))
    except SystemExit:  # that handler
        return conclude(JobResult(INTERRUPTED, "interrupted while Ray was starting"))
    finally:
        _disconnect()


def _result_of(work: Callable[[Shutdown], Coroutine[Any, Any, Any]], shutdown: Shutdown) -> Any:
    """The result of the running work, or the JobResult of what ended it early; a bug of ours is raised."""
    try:
        return asyncio.run(shutdown.carry(work(shutdown)))
    except ShutdownRequested:
        return JobResult(INTERRUPTED, "interrupted")
    except asyncio.CancelledError:
        message = f"interrupted; the step or checkpoint in progress did not end within {LEAVE_SECONDS:g} s"
        return JobResult(INTERRUPTED, message)
    except (BaseExceptionGroup, OSError, *ENDINGS) as error:
        cause = _cause(error)
        if _is_bug(cause):
            raise cause from error.__cause__
        return JobResult(FAILED, f"{cause}{_logs(cause)}")


def _logs(cause: BaseException) -> str:
    """Where to look further: how the log of the actor that failed ends, or the directory of all logs."""
    if not isinstance(cause, ActorFailure):
        return ""
    return cause.log or (f"\nlogs of the actors, on each node: {log_directory()}" if ray.is_initialized() else "")


def _disconnect() -> None:
    try:
        bounded(disconnect, owner="Ray", to="shut down", deadline_s=DISCONNECT_SECONDS)
    except TimeoutError as error:
        atexit.unregister(ray.shutdown)  # it would hang once more
        print(f"{error}; its processes end with this one", file=sys.stderr, flush=True)


async def starting(work: Coroutine[Any, Any, Any]) -> Any:
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


def _cause(error: BaseException) -> BaseException:
    """Of errors that came together the one that tells most."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return min((_cause(one) for one in error.exceptions), key=_echo)


def _echo(error: BaseException) -> int:
    """How much an error is only the echo of another; of equals the first counts."""
    if _is_bug(error):
        return 0
    # An actor's failure has a cause, what Ray says of it; a wait for that actor just runs out.
    return 2 if isinstance(error, ActorFailure) and error.__cause__ is None else 1


def _is_bug(error: BaseException) -> bool:
    """Whether it is none of the errors that a run under way may end with."""
    return not (isinstance(error, ENDINGS) or is_full(error))
