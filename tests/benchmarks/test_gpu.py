"""The stages for a GPU: which there are, what a second call repeats, and that they leave a result on a CPU."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from benchmarks.gpu_stages import training
from benchmarks.gpu_stages.setting import Setting, Skip


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    return gpu.main()


def test_every_stage_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(gpu.STAGES)
    assert gpu.LIMIT_S < 540, "a borrowed machine gives nine minutes"


def test_a_second_call_repeats_what_has_no_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[str] = []

    def stage(options: object, name: str) -> bool:
        first = {"one-card": "failed", "learner-4b-lora": "skipped"}
        status = first.get(name, "ok") if len(ran) < len(gpu.STAGES) else "ok"
        (tmp_path / f"{name}.json").write_text(json.dumps({"status": status}))
        ran.append(name)
        return status != "failed"

    monkeypatch.setattr(gpu, "_in_process", stage)
    assert call(monkeypatch, "--output", str(tmp_path)) == 1
    assert ran == list(gpu.STAGES)
    assert call(monkeypatch, "--output", str(tmp_path)) == 0
    assert ran[len(gpu.STAGES) :] == ["one-card", "learner-4b-lora"]
    assert call(monkeypatch, "--output", str(tmp_path), "--stage", "bandwidth") == 0 and ran[-1] == "bandwidth"


def test_flops_of_a_token() -> None:
    from benchmarks.gpu_stages.learning import flops_per_token

    shape = SimpleNamespace(num_hidden_layers=2, num_attention_heads=3, head_dim=5)
    # forward 2 a parameter, backward twice that; attention: 2 products x 2 a value x 3 passes x half of the length
    assert flops_per_token(shape, 100, 10) == 6 * 100 + 2 * 2 * 3 * (2 * 3 * 5) * (10 / 2)


def test_broadcasts_between_cards_need_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from benchmarks.gpu_stages.learning import weight_sync

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Skip, match="broadcast.backend = nccl needs two cards, and 1 is visible"):
        weight_sync(Setting("cuda", True, tmp_path), "4b", "nccl")


@pytest.mark.slow
def test_stages_leave_a_result_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path) -> None:
    monkeypatch.chdir(repository)
    names = ("learner-0.6b-16k", "sync-nccl-4b")
    stages = [part for name in names for part in ("--stage", name)]
    assert call(monkeypatch, "--output", str(tmp_path), "--device", "cpu", "--tiny", *stages) == 0
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in names]
    assert [result["status"] for result in results] == ["ok", "ok"]
    assert all(result["tiny"] and result["device"] == "cpu" for result in results)
    assert results[0]["figures"]["trained_tokens_per_second"] > 0 and results[0]["figures"]["mfu"] is None
    assert results[1]["figures"]["gb_per_second"] > 0
    assert call(monkeypatch, "--output", str(tmp_path), "--stage", "bandwidth") == 1, "there is no GPU"
    assert "no NVIDIA GPU is visible" in json.loads((tmp_path / "bandwidth.json").read_text())["error"]


def test_a_peak_that_nvidia_smi_did_not_measure_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peak up to the failure would be too low."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 2048\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    card = training._CardMemory()
    while not card._peak_mib:
        time.sleep(0.01)
    assert card.stop() == 2.0 and capsys.readouterr().err == ""
    card = training._CardMemory()
    while not card._peak_mib:
        time.sleep(0.01)
    program.write_text("#!/bin/sh\nexit 9\n")
    card._thread.join(timeout=30)
    assert card.stop() is None
    assert "warning: peak_memory_gib is not measured: nvidia-smi failed (Command" in capsys.readouterr().err
