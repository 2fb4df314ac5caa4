"""`bonrl report`: the page of a run, as a file or served during the run."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import UsageError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, finished or under way.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write [RUN/report.html].")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the default browser.")] = False,
    groups: Annotated[int, typer.Option("--groups", min=0, max=10_000, help="Groups with their samples to show.")] = 60,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed for choosing the groups.")] = 0,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page, which refreshes itself, until Ctrl-C; writes no file.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on; by default only this machine can reach it.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port to serve on; 0: a free one.")] = 8421,
) -> None:
    """Write one HTML page about a run: result, curves, time, what the model answered, configuration.

    The page is one file. It loads nothing from the network, so it can be mailed, archived and read offline.

    \b
    Examples
      bonrl report runs/20261123-101500 --open
      bonrl report runs/20261123-101500 -o report.html --groups 200
      bonrl report runs/20261123-101500 --live              while it trains: http://127.0.0.1:8421/
    """
    if live and output is not None:
        raise UsageError("--live serves the page and writes no file: leave --output out")
    if live:
        from cluster.report.live import serve

        def say(text: str) -> None:
            typer.echo(text)
            if open_ and text.startswith("http"):
                _show(text)

        serve(run, host=host, port=port, groups=groups, seed=seed, say=say)
        return
    from cluster.report.page import build, render

    file = run / "report.html" if output is None else output
    _write(file, render(build(run, groups=groups, seed=seed)))
    typer.echo(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if open_:
        _show(file.absolute().as_uri())


def _write(file: Path, page: str) -> None:
    """Replace the file atomically, so that a browser never reads half a page."""
    from actors.atomic_file import write_atomically

    if file.is_dir():
        raise UsageError(f"--output {file}: it is a directory; name a file, such as {file / 'report.html'}")
    try:
        write_atomically(file, page.encode())
    except OSError as error:
        raise UsageError(f"--output {file}: cannot be written: {error.strerror}; name another file") from error


def _show(address: str) -> None:
    if not webbrowser.open(address):
        typer.echo(f"no browser was found: open {address} yourself", err=True)
