"""Variables of a submitted job: which are sent, and which of its processes get them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.jobs.command import environment
from cluster.jobs.environment import STOP_SECONDS, plain, with_variables
from tests.cluster.jobs.test_job_package import write


def test_variables_of_the_job() -> None:
    here = {"WANDB_API_KEY": "secret", "HF_TOKEN": "", "HOME": "/home/x", "OTHER": "1"}
    assert environment([], here) == {"WANDB_API_KEY": "secret"}
    tracked = {"mlflow": {"tracking_uri": "https://mlflow"}}
    token = {"MLFLOW_TRACKING_TOKEN": "secret"}
    assert environment([], here | token) == {"WANDB_API_KEY": "secret"}
    assert environment([], here | token, tree=tracked) == {"WANDB_API_KEY": "secret"} | token
    found = environment(["OTHER", "NEW=a=b", "WANDB_API_KEY=mine"], here)
    assert found == {"WANDB_API_KEY": "mine", "OTHER": "1", "NEW": "a=b"}
    with pytest.raises(UsageError, match="--env MISSING: it is not set here"):
        environment(["MISSING"], here)
    with pytest.raises(UsageError) as error:
        environment(["-bad=secret"], here)
    assert "secret" not in str(error.value)


def test_processes_of_the_job_get_the_variables(repository: Path, tmp_path: Path) -> None:
    """A value of the job replaces the node's, but not one that the actor itself sets."""
    for name in ("cluster/__init__.py", "cluster/jobs/__init__.py", "cluster/jobs/environment.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((repository / name).read_text())
    variables = {"SECRET": "s", "NODE": "job", "ACTOR": "job", "LD_PRELOAD": "x.so"}
    command, found = with_variables('echo "it\'s $SECRET"; exit 3', tmp_path, variables)
    assert found["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "LD_PRELOAD": "x.so"}
    assert "worker_process_setup_hook" not in found, "it would run in Ray's supervisor of the job"
    worker = "import os, cluster.jobs.environment as h; h.load(); "
    worker += "print([os.environ[name] for name in ('SECRET', 'NODE', 'ACTOR')])"
    raylet = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], env={{**os.environ, "
    raylet += "'ACTOR': 'own'}, check=True)"
    done = subprocess.run(
        [sys.executable, "-c", raylet],
        env={"NODE": "node", "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "['s', 'job', 'own']", done.stderr
    job = json.dumps({"metadata": {}, "runtime_env": {"env_vars": {"A": "1"}}})
    printing, _ = with_variables("printenv RAY_JOB_CONFIG_JSON_ENV_VAR", write(tmp_path / "b" / "x").parent, variables)
    environment = {
        "RAY_JOB_CONFIG_JSON_ENV_VAR": job,
        "PYTHONPATH": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    started = subprocess.run(
        command, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (started.stdout, started.returncode) == ("it's s\n", 3), started.stderr
    described = subprocess.run(
        printing, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    hook = {"worker_process_setup_hook": "cluster.jobs.environment.load"}
    assert json.loads(described.stdout) == {"metadata": {}, "runtime_env": {"env_vars": {"A": "1"}, **hook}}
    assert plain(command) == 'echo "it\'s $SECRET"; exit 3' and plain("echo a") == "echo a"
    assert with_variables("echo a", tmp_path, {})[0] == "echo a"
