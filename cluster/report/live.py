"""Serves the page of a running run; an open page refreshes itself."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import UsageError
from cluster.report.page import Report, build, render, render_sections
from cluster.results import ResultsError

REQUEST_S = 30.0  # a client that is silent for so long is dropped
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SIGNS = ("metrics.jsonl", "incidents.jsonl", "summary.json", "lock", "groups")  # what changes while a run continues


class LiveReport:
    """The newest page of one run, built again only after the run has written something."""

    def __init__(self, path: Path, *, groups: int, seed: int) -> None:
        self._path, self._groups, self._seed = path, groups, seed
        self._lock = threading.Lock()
        self._built: tuple[str, Report] | None = None

    def version(self) -> str:
        """Changes when the run has written something."""
        return "-".join(_sign(self._path / name) for name in _SIGNS)

    def report(self) -> tuple[str, Report]:
        """The version and what the page says at it.

        Raises:
            ResultsError: the run is gone, or a file of it is damaged.
        """
        with self._lock:  # deadline: held while one report is built
            version = self.version()
            if self._built is None or self._built[0] != version:
                self._built = version, build(self._path, groups=self._groups, seed=self._seed)
            return self._built


def serve(path: Path, *, host: str, port: int, groups: int, seed: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        host, port: to listen on; port 0 takes a free one.
        say: gets the address once it answers.

    Raises:
        UsageError: the address cannot be used, or there is no run at `path`.
    """
    live = LiveReport(path, groups=groups, seed=seed)
    live.report()  # refuses a wrong path before a browser asks
    try:
        server = make_server(live, host, port)
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror or error}; give another"
        ) from error
    with server:
        say(f"http://{_named(host)}:{server.server_address[1]}/")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            say("stopped")


def make_server(live: LiveReport, host: str, port: int) -> ThreadingHTTPServer:
    """The server of one live report, listening but not yet serving."""

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S
        server_version, sys_version = "bonrl", ""

        def do_GET(self) -> None:
            if host in _LOOPBACK and _host_of(self.headers.get("Host", "")) not in _LOOPBACK:
                # A page of another site can point its own name at this machine; it must not read the run.
                self._answer(403, "text/plain", b"bonrl report answers to localhost only")
                return
            pages: dict[str, Callable[[], tuple[str, str]]] = {
                "/": lambda: ("text/html", _page(live)),
                "/version": lambda: ("text/plain", live.version()),
                "/update": lambda: ("application/json", _update(live)),
            }
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self._answer(404, "text/plain", b"no such page")
                return
            try:
                kind, text = page()
            except ResultsError as error:
                self._answer(503, "text/plain", str(error).encode())
                return
            self._answer(200, kind, text.encode())

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            packed = gzip.compress(body, 1) if "gzip" in self.headers.get("Accept-Encoding", "") else body
            try:
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(packed)))
                self.send_header("Cache-Control", "no-store")
                if packed is not body:
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                self.wfile.write(packed)
            except (BrokenPipeError, ConnectionResetError):  # the browser left before the answer
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not logged: a page asks every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # a slow client does not hold up Ctrl-C

    return Server((host, port), Handler)


def _page(live: LiveReport) -> str:
    version, report = live.report()
    return render(report, live=version)


def _update(live: LiveReport) -> str:
    version, report = live.report()
    return json.dumps({"version": version} | render_sections(report), allow_nan=False)


def _sign(file: Path) -> str:
    try:
        state = file.stat()
    except OSError:
        return "0"
    return f"{state.st_mtime_ns:x}.{state.st_size:x}"


def _host_of(header: str) -> str | None:
    """The host of a request's header, with a port or without."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _named(host: str) -> str:
    """A host as written in an address."""
    return f"[{host}]" if ":" in host else host
