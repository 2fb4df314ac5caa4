"""The command that a run prints at its end works where the user is: here, or with `bonrl submit`."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cluster.jobs.command import make_job
from cluster.jobs.environment import _JOB
from cluster.records.next_command import JOB_DESCRIPTION, report_again, train_again

RUN = Path("/shared/my runs/a")


def test_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_DESCRIPTION, raising=False)
    assert train_again("--resume", RUN, "run.steps=8") == "bonrl train --resume '/shared/my runs/a' run.steps=8"
    assert report_again(RUN) == "bonrl report '/shared/my runs/a' --open"


def test_in_a_job_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is taken apart as a shell and `bonrl submit` do it."""
    monkeypatch.setenv(JOB_DESCRIPTION, "{}")
    begin = ["bonrl", "submit", "--address", "http://HEAD:8265"]
    assert shlex.split(train_again("--resume", RUN, "run.steps=8")) == [*begin, "--resume", str(RUN), "run.steps=8"]
    words = shlex.split(report_again(RUN))
    assert words[:-1] == [*begin, "--command"]
    job = make_job(None, Path("none"), [], command=words[-1])
    assert job.command == "python -m cluster.cli report '/shared/my runs/a'"
    words = shlex.split(train_again("--resume", RUN, "--rollout-only"))
    assert words[:-1] == [*begin, "--entrypoint"]
    assert words[-1] == "python -m cluster.cli train --resume '/shared/my runs/a' --rollout-only"


def test_rays_job_server_sets_the_variable() -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert JOB_DESCRIPTION == _JOB == RAY_JOB_CONFIG_JSON_ENV_VAR
