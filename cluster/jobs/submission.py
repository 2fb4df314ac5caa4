"""Package the job, hand it to Ray's job server, follow its log, return its exit status."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.exit_status import FAILED, INTERRUPTED
from cluster.jobs.command import Job
from cluster.jobs.environment import with_variables
from cluster.jobs.packaging import stage
from cluster.jobs.server import check_address, explained, make_client

STATUS_SECONDS = 60.0  # after the log ended, until the job server knows how the job ended
LOST_SECONDS = 120.0  # without an answer of the job server
ASK_SECONDS = 60.0  # between two questions whether the job server is there, while the log is shown
POLL_SECONDS = 0.5
AGAIN_SECONDS = 5.0  # between two attempts to reach a job server that was lost
_LOGS = "/tmp/ray/session_latest/logs"  # unless `ray start --temp-dir` names another directory

Echo = Callable[..., Any]


def submit_job(job: Job, *, address: str, variables: Mapping[str, str], echo: Echo) -> int:
    """Submit, follow, and return the exit status of the job's command (130 when following was interrupted).

    Args:
        address: of the job server, http://HOST:PORT (the dashboard of the head node).
        variables: of the job's environment; only their names are printed, and no file of the run holds them.
        echo: prints a line; `echo(text, nl=False)` prints text as it is.

    Raises:
        UsageError: nothing was submitted: no cluster there, no valid token, a path that cannot travel.
    """
    url = check_address(address)
    with tempfile.TemporaryDirectory(prefix="bonrl-submit-") as scratch:
        size = stage(job.config, Path(scratch), job.files)
        with explained(url):
            client = make_client(url)
            echo(f"packaged {size / 2**20:.1f} MiB, submitting to {url}")
            if variables:
                echo(f"variables that are sent along (their values are not printed): {', '.join(sorted(variables))}")
            command, runtime_env = with_variables(job.command, Path(scratch), variables)
            submitted = client.submit_job(
                entrypoint=command,
                submission_id=f"bonrl-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                runtime_env=runtime_env,
                entrypoint_num_gpus=job.resources.get("GPU"),
                entrypoint_resources={name: n for name, n in job.resources.items() if name != "GPU"} or None,
            )
    echo(f"job {submitted}")
    if job.resources:
        echo(f"it waits for a node with {', '.join(f'{n:g} {name}' for name, n in job.resources.items())}")
    return follow(client, url, submitted, job.start_s, echo)


def follow(client: Any, url: str, job: str, start_s: float | None, echo: Echo) -> int:
    """Print the job's log from its beginning until the job ends; its exit status, or 130 after Ctrl-C.

    Args:
        start_s: seconds after which a job that has not started is stopped; None: wait for it until Ctrl-C.
    """
    try:
        return asyncio.run(_follow(client, url, job, start_s, echo))
    except KeyboardInterrupt:
        echo(f"\nno longer following the log; the job {job} continues.\n{_commands(url, job)}")
        return INTERRUPTED


async def _follow(client: Any, url: str, job: str, start_s: float | None, echo: Echo) -> int:
    """Print the job's log until the job ends; its exit status."""
    if not await _started(client, job, start_s, echo):
        return FAILED
    from aiohttp import ClientError  # late: Ray's job client imports it too

    log, over = _Log(echo), False
    while True:
        try:
            await _show_log(client, job, log)
            return await _ended(client, url, job, echo)
        except (RuntimeError, OSError, ClientError) as error:
            echo(f"\nthe log stream broke ({error})" + ("" if over else "; trying again"))
        if over:
            return await _ended(client, url, job, echo)
        try:
            over = (await _asked_again(client, job)).status.is_terminal()
        except (RuntimeError, OSError) as error:
            echo(f"gave up: {LOST_SECONDS:g} s without an answer from {url} ({error}).\n{_commands(url, job)}")
            return FAILED


class _Log:
    """Prints the log of a job, which every new stream sends from its beginning."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._printed = 0  # characters

    async def follow(self, stream: AsyncIterator[str]) -> None:
        sent = 0
        # deadline: the job's end, or the caller's question to the job server
        async for text in stream:
            sent += len(text)
            if sent > self._printed:
                self._echo(text[-(sent - self._printed) :], nl=False)
                self._printed = sent


async def _show_log(client: Any, job: str, log: _Log) -> None:
    """Print the log until it ends. A silently lost connection is noticed at the next request to the job server."""
    printing = asyncio.create_task(log.follow(client.tail_job_logs(job)))
    try:
        while not (await asyncio.wait({printing}, timeout=ASK_SECONDS))[0]:
            client.get_job_info(job)
        printing.result()
    finally:
        printing.cancel()


async def _asked_again(client: Any, job: str) -> Any:
    """The job server's answer about the job; its last error after LOST_SECONDS without one."""
    deadline = time.monotonic() + LOST_SECONDS
    while True:
        await asyncio.sleep(AGAIN_SECONDS)
        try:
            return client.get_job_info(job)
        except (RuntimeError, OSError):
            if time.monotonic() > deadline:
                raise


async def _started(client: Any, job: str, start_s: float | None, echo: Echo) -> bool:
    began = time.monotonic()
    while str(client.get_job_info(job).status) == "PENDING":
        if start_s is not None and time.monotonic() > began + start_s:
            client.stop_job(job)
            echo(
                f"the job {job} did not start within {start_s:g} s (deadlines.start_s) and was stopped; "
                "check that the head node has a free CPU, that a node has the resources that the job waits for, and "
                "that it could unpack the job's directory"
            )
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def _ended(client: Any, url: str, job: str, echo: Echo) -> int:
    """The exit status, once the job server knows it: the log ended, so at most STATUS_SECONDS later."""
    deadline = time.monotonic() + STATUS_SECONDS
    while True:
        try:
            info = client.get_job_info(job)
        except (RuntimeError, OSError) as error:
            reason = f"the job server does not answer ({error})"
        else:
            if info.status.is_terminal():
                return _exit_status(info, url, job, echo)
            reason = f"the job server still reports the status {info.status}"
        if time.monotonic() > deadline:
            echo(f"gave up waiting for the end of job {job}: {reason}.\n{_commands(url, job)}")
            return FAILED
        await asyncio.sleep(POLL_SECONDS)


def _exit_status(info: Any, url: str, job: str, echo: Echo) -> int:
    status = str(info.status)
    if status == "SUCCEEDED":
        echo(f"job {job} succeeded")
        return 0
    code = info.driver_exit_code
    echo(f"job {job} {status.lower()}" + (f" with exit status {code}" if code else f": {info.message}"))
    echo(
        f"log of the job: bonrl jobs logs {job} --address {url}\n"
        f"   the same on the head node: {_LOGS}/job-driver-{job}.log\n"
        f"logs of its actors, on the node of each: {_LOGS}/worker-*.err and worker-*.out"
    )
    return code if isinstance(code, int) and 0 < code < 256 else FAILED


def _commands(url: str, job: str) -> str:
    return (
        f"follow: bonrl jobs logs {job} --follow --address {url}\nlist:   bonrl jobs --address {url}\n"
        f"stop:   bonrl jobs stop {job} --address {url}"
    )
