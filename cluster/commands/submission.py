"""Package the job, hand it to Ray's job server, follow its log, return its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.commands.job_command import Job
from cluster.commands.packaging import stage, upload_limit
from cluster.errors import UsageError
from cluster.exit_status import INTERRUPTED
from verifiers.credentials import has_credentials, masked

CONNECT_SECONDS = 10.0
STATUS_SECONDS = 60.0  # after the log ended, until the job server knows how the job ended
LOST_SECONDS = 120.0  # without an answer of the job server
POLL_SECONDS = 0.5
_LOGS = "/tmp/ray/session_latest/logs"  # unless `ray start --temp-dir` names another directory
FAILED = 1

_TOKEN_HELP = """the cluster asks for a token (Ray's token authentication).
Set RAY_AUTH_MODE=token here and give the same token as the cluster's: in RAY_AUTH_TOKEN, in the file that
RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token (copy it from the head node, where `ray get-auth-token` prints it).
For a new cluster: `ray get-auth-token --generate`, then start every node with RAY_AUTH_MODE=token."""

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
        with _explained(url):
            client = _client(url)
            echo(f"packaged {size / 2**20:.1f} MiB, submitting to {url}")
            if variables:
                echo(f"variables that go along (their values are not printed): {', '.join(sorted(variables))}")
            submitted = client.submit_job(
                entrypoint=job.command,
                submission_id=f"bonrl-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                runtime_env={"working_dir": scratch, "env_vars": dict(variables)},
            )
    echo(f"job {submitted}")
    try:
        return asyncio.run(_follow(client, url, submitted, job.start_s, echo))
    except KeyboardInterrupt:
        echo(f"\nno longer following; the job {submitted} goes on.\n{_commands(url, submitted)}")
        return INTERRUPTED


def check_address(address: str) -> str:
    """The job server's URL, when something listens there.

    Raises:
        UsageError: not an http(s) URL, or nothing answers within CONNECT_SECONDS.
    """
    url = address if "://" in address else f"http://{address}"
    if has_credentials(url):
        raise UsageError(
            f"--address {masked(url)}: Ray's job server takes no user name or password; leave it out. If the cluster "
            "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 8265)
    except ValueError as error:
        raise UsageError(f"--address {address}: {error}; give http://HOST:8265") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--address {address}: give the dashboard of the head node, http://HOST:8265 (Ray's job server "
            "listens there)"
        )
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    server = connect(parts.hostname, port, timeout=CONNECT_SECONDS)
    try:
        server.connect()
    except OSError as error:
        raise UsageError(
            f"--address {address}: no cluster answers there ({error.strerror or error}). Is the head node up "
            "(`ray start --head --dashboard-host=0.0.0.0`), and is the port that of its dashboard (8265)?"
        ) from error
    try:
        server.request("GET", "/api/version")
        server.getresponse()  # also a refusal for want of a token is an answer
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(
            f"--address {address}: something listens there, but it is no Ray job server "
            f"({error or type(error).__name__}); give the port of the head node's dashboard (8265)"
        ) from error
    finally:
        server.close()
    return f"{parts.scheme}://{parts.hostname if ':' not in parts.hostname else f'[{parts.hostname}]'}:{port}"


def _client(url: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    # Their INFO lines (uploads, web sockets) would appear between the lines of the job's log.
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    # These would overrule --address in silence.
    with _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        return JobSubmissionClient(url)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Ray's errors on the way to a submitted job, as messages with the remedy."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise UsageError(f"--address {url}: {_TOKEN_HELP}") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "413" in str(error):
            raise UsageError(
                f"--address {url}: the job server takes packages of at most {upload_limit() / 2**20:.0f} MiB; put "
                "models and data on storage that every node sees and give their absolute paths"
            ) from error
        raise UsageError(f"--address {url}: the job server refused the job: {error}") from error


async def _follow(client: Any, url: str, job: str, start_s: float, echo: Echo) -> int:
    """Print the job's log until the job ends; its exit status."""
    if not await _started(client, job, start_s, echo):
        return FAILED
    try:
        # deadline: the job's end or the user's Ctrl-C, for it only shows a log
        async for text in client.tail_job_logs(job):
            echo(text, nl=False)
    except (RuntimeError, OSError) as error:
        echo(f"\nthe log stream broke ({error}); waiting for the job's end without it.\n{_commands(url, job)}")
        return await _ended(client, url, job, None, echo)
    return await _ended(client, url, job, STATUS_SECONDS, echo)


async def _started(client: Any, job: str, start_s: float, echo: Echo) -> bool:
    deadline = time.monotonic() + start_s
    while str(client.get_job_info(job).status) == "PENDING":
        if time.monotonic() > deadline:
            client.stop_job(job)
            echo(
                f"the job {job} did not start within {start_s:g} s (deadlines.start_s) and was stopped: has "
                "the cluster a free CPU on its head node, and could it unpack the job's directory?"
            )
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def _ended(client: Any, url: str, job: str, limit_s: float | None, echo: Echo) -> int:
    """Wait for a terminal status: `limit_s` after the log ended, or (None) as long as the job server answers."""
    deadline = time.monotonic() + (limit_s if limit_s is not None else LOST_SECONDS)
    while True:
        try:
            info = client.get_job_info(job)
            if limit_s is None:
                deadline = time.monotonic() + LOST_SECONDS
        except (ConnectionError, RuntimeError, OSError) as error:
            info, reason = None, f"the job server does not answer ({error})"
        else:
            if info.status.is_terminal():
                return _exit_status(info, url, job, echo)
            reason = f"the job server still calls it {info.status}"
        if time.monotonic() > deadline:
            echo(f"gave up waiting for the end of job {job}: {reason}.\n{_commands(url, job)}")
            return FAILED
        await asyncio.sleep(POLL_SECONDS if limit_s is not None else 5.0)


def _exit_status(info: Any, url: str, job: str, echo: Echo) -> int:
    status = str(info.status)
    if status == "SUCCEEDED":
        echo(f"job {job} succeeded")
        return 0
    code = info.driver_exit_code
    echo(f"job {job} {status.lower()}" + (f" with exit status {code}" if code else f": {info.message}"))
    echo(
        f"log of the job: ray job logs --address {url} {job}\n"
        f"   the same on the head node: {_LOGS}/job-driver-{job}.log\n"
        f"logs of its actors, on the node of each: {_LOGS}/worker-*.err and worker-*.out"
    )
    return code if isinstance(code, int) and 0 < code < 256 else FAILED


def _commands(url: str, job: str) -> str:
    return (
        f"follow: ray job logs --address {url} --follow {job}\nstatus: ray job status --address {url} {job}\n"
        f"stop:   ray job stop --address {url} {job}"
    )
