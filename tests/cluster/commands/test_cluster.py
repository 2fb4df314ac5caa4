"""`bonrl cluster`: files are printed or written, and the platform's own command line is run on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import cli
from tests.cluster.launch.clusters import TREE


@pytest.fixture
def bonrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `bonrl cluster` in a directory with run.yaml; returns status, output, error output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        TREE.replace("storage: {path: /shared}", "storage: {path: /shared, nfs: 'f:/e'}")
    )
    monkeypatch.setattr("cluster.cli.check_packages", lambda: None)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bonrl", "cluster", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with platform programs that only note how they were called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("ray", "kubectl", "sbatch", "squeue", "scancel"):
        (directory / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "{tmp_path}/calls"; exit 3\n')
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "calls"


@pytest.mark.parametrize("platform", ["ray-aws", "ray-gcp", "ray-onprem", "kuberay", "slurm"])
def test_files_are_printed_or_written(bonrl: Any, tmp_path: Path, platform: str) -> None:
    status, out, err = bonrl("render", "--to", platform, "run.yaml", "actors.samplers=2")
    assert status == 0 and "not on this machine" in err
    assert bonrl("render", "--to", platform, "run.yaml", "actors.samplers=2", "-o", "files")[0] == 0
    written = sorted((tmp_path / "files").iterdir())
    assert "---\n".join(file.read_text() for file in written) == out
    if platform != "slurm":
        assert all(document for document in yaml.safe_load_all(out))


def test_a_preset_may_lie_below_the_runs_own_file(bonrl: Any, tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text("run: {steps: 7, name: preset}\n")
    tree = yaml.safe_load((tmp_path / "run.yaml").read_text())
    tree.setdefault("run", {})["name"] = "mine"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    status, out, _ = bonrl("render", "--to", "slurm", "-c", "preset.yaml", "mine.yaml")
    sent = yaml.safe_load(out.partition("<<'BONRL_RUN_YAML'\n")[2].partition("\nBONRL_RUN_YAML\n")[0])
    assert (status, sent["run"]["steps"], sent["run"]["name"]) == (0, 7, "mine")


def test_the_run_may_be_given_as_for_other_commands(bonrl: Any) -> None:
    _, wanted, _ = bonrl("render", "--to", "kuberay", "run.yaml", "cluster.name=mine", "rollout.n=32")
    status, out, _ = bonrl("render", "--to", "kuberay", "-c", "run.yaml", "cluster.name=mine", "rollout.n=32")
    assert (status, out) == (0, wanted)
    assert bonrl("render", "--to", "kuberay", "-c", "run.yaml")[0] == 0
    for words in ((), ("cluster.name=mine",)):
        status, _, err = bonrl("status", "--to", "kuberay", *words)
        assert status == 2 and "give the configuration of the run, with cluster.node_types: RUN.yaml" in err


def test_refusals_are_one_message(bonrl: Any) -> None:
    status, _, err = bonrl("render", "--to", "ray-aws", "run.yaml", "sampler.gpus=16", "sampler.tensor_parallel=16")
    assert status == 2 and "stays on one node" in err
    assert bonrl("render", "--to", "azure", "run.yaml")[0] == 2
    assert bonrl("up", "--to", "slurm", "run.yaml", "--job")[0] == 2


def test_a_cluster_that_is_stated_to_be_too_small_is_refused_before_it_is_rendered(bonrl: Any) -> None:
    status, out, err = bonrl("render", "--to", "kuberay", "run.yaml", "cluster.num_gpus=1")
    assert status == 2 and not out
    assert "cluster.num_gpus = 1" in err and "the layout takes" in err


def test_relative_paths_of_a_job_on_kubernetes(bonrl: Any, programs: Path) -> None:
    """Only the RayJob is refused: `bonrl submit` sends such a run to the cluster that stays."""
    status, _, err = bonrl("up", "--to", "kuberay", "run.yaml", "run.directory=runs", "--job")
    assert status == 2 and "must be absolute: run.directory = runs;" in err and not programs.exists()
    status, _, err = bonrl("render", "--to", "kuberay", "run.yaml", "run.directory=runs")
    assert status == 0 and "warning: rayjob.yaml cannot be used as it is: a RayJob takes no files" in err
    assert bonrl("up", "--to", "kuberay", "run.yaml", "run.directory=runs")[0] == 3


CALLS = [
    (("up", "ray-aws"), "ray up --yes runs/clusters/tuner/ray-aws.yaml"),
    (("down", "ray-gcp"), "ray down --yes runs/clusters/tuner/ray-gcp.yaml"),
    (("status", "ray-onprem", "cluster.onprem.activate=source x"),
     "ray exec runs/clusters/tuner/ray-onprem.yaml source x; export RAY_AUTH_MODE=token NCCL_SOCKET_IFNAME=eth0; "
     "ray status"),
    (("up", "kuberay"), "kubectl apply -f runs/clusters/tuner/raycluster.yaml"),
    (("up", "kuberay", "--job"), "kubectl create -f runs/clusters/tuner/rayjob.yaml"),
    (("down", "kuberay"), "kubectl delete --ignore-not-found -f runs/clusters/tuner/raycluster.yaml -f "
     "runs/clusters/tuner/rayjob.yaml"),
    (("status", "kuberay"), "kubectl get rayclusters,rayjobs,pods -n default -l app.kubernetes.io/name=bonrl"),
    (("up", "slurm"), "sbatch runs/clusters/tuner/job.sbatch"),
    (("down", "slurm"), "scancel --me --name=tuner"),
    (("status", "slurm"), "squeue --me --name=tuner"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "call"), CALLS, ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_the_platforms_own_program_is_run_and_its_status_returned(
    bonrl: Any, programs: Path, words: tuple[str, ...], call: str
) -> None:
    (programs.parent / ".ray").mkdir()
    (programs.parent / ".ray" / "auth_token").write_text("0" * 64)
    command, platform, *rest = words
    status, _, err = bonrl(command, "--to", platform, "run.yaml", *rest)
    assert status == 3 and programs.read_text() == f"{call}\n" and "running: " in err


def test_a_missing_program_or_token_is_named(bonrl: Any, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = bonrl("up", "--to", "ray-aws", "run.yaml")
    assert status == 2 and "~/.ray/auth_token is missing" in err and "ray get-auth-token --generate" in err
    monkeypatch.setenv("PATH", "/nowhere")
    for platform, program in (("kuberay", "kubectl"), ("slurm", "sbatch")):
        status, _, err = bonrl("up", "--to", platform, "run.yaml")
        assert status == 2 and f"{program} is not installed here" in err
    assert not programs.exists()
