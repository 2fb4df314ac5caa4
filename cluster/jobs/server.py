"""The job server of a Ray cluster: its address, a client for it, and its errors as messages with the remedy."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import UsageError
from cluster.jobs.packaging import upload_limit
from verifiers.credentials import has_credentials, masked

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0  # of one request, an upload's included between two packets

_TOKEN_HELP = """the cluster asks for a token (Ray's token authentication).
Set RAY_AUTH_MODE=token here and give the same token as the cluster's: in RAY_AUTH_TOKEN, in the file that
RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token (copy it from the head node, where `ray get-auth-token` prints it).
For a new cluster: `ray get-auth-token --generate`, then start every node with RAY_AUTH_MODE=token."""


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
            f"--address {address}: something listens there, but it is not a Ray job server "
            f"({error or type(error).__name__}); give the port of the head node's dashboard (8265)"
        ) from error
    finally:
        server.close()
    return f"{parts.scheme}://{parts.hostname if ':' not in parts.hostname else f'[{parts.hostname}]'}:{port}"


def make_client(url: str) -> Any:
    """Ray's client of the job server at `url`, whose requests have a deadline."""
    from ray.job_submission import JobSubmissionClient

    # Their INFO lines (uploads, web sockets) would appear between the lines of the job's log.
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": ANSWER_SECONDS, **options})

    # These would overrule --address in silence.
    with _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        return Client(url)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


@contextlib.contextmanager
def explained(url: str, job: str | None = None) -> Iterator[None]:
    """Errors of the job server as messages with the remedy; `job` is the one that is asked for."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise UsageError(f"--address {url}: {_TOKEN_HELP}") from error
    except (RuntimeError, ValueError) as error:
        if job is not None and "404" in str(error):
            raise UsageError(f"{job}: the cluster has no such job; `bonrl jobs --address {url}` lists them") from error
        if "413" in str(error):
            raise UsageError(
                f"--address {url}: the job server takes packages of at most {upload_limit() / 2**20:.0f} MiB; put "
                "models and data on storage that every node sees and give their absolute paths"
            ) from error
        raise UsageError(f"--address {url}: the job server refused the request: {error}") from error
    except OSError as error:  # requests' errors are of this class
        raise UsageError(
            f"--address {url}: the job server does not answer ({error}); check that the head node is up and the "
            "network works"
        ) from error
