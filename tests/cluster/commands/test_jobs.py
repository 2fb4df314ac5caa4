"""`bonrl jobs` without a cluster; test_submit.py runs it against one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.commands.jobs import table
from cluster.jobs.environment import with_variables


def job(name: str, status: str, start: float | None, end: float | None = None, command: str = "x") -> SimpleNamespace:
    times = (None if at is None else int(at * 1000) for at in (start, end))
    return SimpleNamespace(
        submission_id=name, status=status, start_time=next(times), end_time=next(times), entrypoint=command
    )


def test_jobs_are_listed_newest_first_without_their_variables(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    command, _ = with_variables("python -m cluster.cli train\n--config job.yaml", tmp_path / "a", {"SECRET": "s"})
    lines = table(
        [
            job("old", "SUCCEEDED", 100, 165),
            job("new", "RUNNING", 1000, None, command),
            job("waits", "PENDING", None, None, "y" * 500),
        ],
        now=1030,
    )
    assert lines[0].split() == ["job", "status", "started", "lasted", "command"]
    assert [line.split()[0] for line in lines[1:]] == ["new", "old", "waits"]
    assert "0:00:30  python -m cluster.cli train --config job.yaml" in lines[1] and "0:01:05" in lines[2]
    assert re.search(r"^waits +PENDING +- +- +y+…$", lines[3]) and len(lines[3]) < 130
    assert table([], now=0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jobs"], "--address"),
        (["jobs", "stop", "job-1"], "--address"),
        (["jobs", "--address", "http://127.0.0.1:1"], "no cluster answers there"),
        (["jobs", "-a", "http://127.0.0.1:1", "logs", "job-1"], "no cluster answers there"),
        (["jobs", "stop", "job-1", "-a", "ray://head:10001"], "give the dashboard of the head node"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(arguments: list[str], message: str) -> None:
    from typer.testing import CliRunner

    from cluster.commands.app import app
    from cluster.errors import UsageError

    result = CliRunner(env={"RAY_API_SERVER_ADDRESS": None}).invoke(app, arguments)
    if isinstance(result.exception, UsageError):
        assert message in str(result.exception)
    else:
        assert result.exit_code == 2 and message in result.output
