"""The stages for a GPU: which there are, what a second call repeats, and that they leave a result on a CPU."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from benchmarks.gpu_stages.card_memory import CardMemory
from benchmarks.gpu_stages.setting import Setting, Skip
from benchmarks.gpu_stages.table import STAGES


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    return gpu.main()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that were run; they take no time. The first time one fails and one is skipped."""
    names: list[str] = []

    def stage(options: object, name: str, limit: float) -> dict[str, object]:
        first = {"one-card": "failed", "learner-4b-lora": "skipped"}
        status = first.get(name, "ok") if name not in names else "ok"
        names.append(name)
        extra = {"figures": {"time/step_s": 4.0}} if status == "ok" else {"error": "reason"}
        return {"stage": name, "status": status, **extra}

    monkeypatch.setattr(gpu, "_in_process", stage)
    return names


def test_every_stage_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STAGES)
    assert all(stage.seconds < gpu.LIMIT_S < 540 for stage in STAGES.values()), "a borrowed machine gives nine minutes"


def test_every_stage_names_a_function_that_takes_its_options(repository: Path) -> None:
    """Read from the source: most of the modules import vLLM or DeepSpeed."""
    for name, stage in STAGES.items():
        assert len(name) <= 18, "a column of --list"
        module, function, options = stage.run.args  # type: ignore[attr-defined]
        tree = ast.parse((repository / "benchmarks" / "gpu_stages" / f"{module}.py").read_text())
        [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        parameters = [a.arg for a in [*found.args.args, *found.args.kwonlyargs]]
        optional = len(found.args.defaults) + sum(default is not None for default in found.args.kw_defaults)
        assert parameters[0] == "setting" and options.keys() <= set(parameters[1:]), name
        assert len(parameters) - 1 - optional <= len(options), f"{name} lacks an argument"


def test_a_second_call_repeats_what_has_no_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ran: list[str]
) -> None:
    assert call(monkeypatch, "--device", "cpu", "--output", str(tmp_path)) == 1
    assert ran == list(STAGES)
    assert call(monkeypatch, "--device", "cpu", "--output", str(tmp_path)) == 0
    assert ran[len(STAGES) :] == ["one-card", "learner-4b-lora"]
    stage = ("--stage", "bandwidth")
    assert call(monkeypatch, "--device", "cpu", "--output", str(tmp_path), *stage) == 0 and ran[-1] == "bandwidth"


def test_another_machine_resumes_from_the_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ran: list[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    call(monkeypatch, "--device", "cpu", "--output", str(first))
    again = ("--output", str(second), "--scratch", str(tmp_path / "empty"), "--resume", str(first / "results.json"))
    assert call(monkeypatch, "--device", "cpu", *again) == 0
    assert ran[len(STAGES) :] == ["one-card", "learner-4b-lora"]
    results = json.loads((second / "results.json").read_text())
    assert set(results["stages"]) == set(STAGES)
    assert results["ratios"] == {"trl_step_over_ours": 1.0}


def test_a_stage_starts_only_if_its_time_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    budget = 200.0
    call(monkeypatch, "--device", "cpu", "--output", str(tmp_path), "--budget-s", str(budget))
    fitting = [name for name, stage in STAGES.items() if stage.seconds <= budget - gpu._END_S]
    assert ran == fitting and 0 < len(fitting) < len(STAGES)
    printed = capsys.readouterr().out
    assert all(f"no time for: {name} (" in printed for name in STAGES if name not in fitting)


def test_a_check_that_does_not_pass_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = STAGES["unchanged-eager"]._replace(run=lambda setting: {"passed": False, "tokens_equal": False})
    monkeypatch.setitem(STAGES, "unchanged-eager", failing)
    here = ("--here", "--device", "cpu", "--stage", "unchanged-eager", "--output", str(tmp_path))
    assert call(monkeypatch, *here) == 0
    result = json.loads((tmp_path / "scratch" / "stages" / "unchanged-eager.json").read_text())
    assert result["status"] == "failed" and result["figures"] == {"passed": False, "tokens_equal": False}


def test_flops_of_a_step() -> None:
    from benchmarks.gpu_stages.learning import flops, make_sequences

    sequences = make_sequences(100, 20, 60, 50)
    lengths, responses = [len(s) for s in sequences], [len(s.response_tokens) for s in sequences]
    assert sum(lengths) == 100 and len(set(lengths)) > 1, "unequal, and exactly as many as were asked for"
    shape = SimpleNamespace(
        num_hidden_layers=2, num_attention_heads=3, head_dim=5, vocab_size=50, hidden_size=7, tie_word_embeddings=True
    )
    # forward 2 a weight and token, backward twice that; attention: 2 products x 2 a value x 3 passes x half the square
    attention = sum(2 * 2 * 3 * (2 * 3 * 5) * (length**2 / 2) for length in lengths)
    assert flops(shape, 1000, sequences) == 6 * (650 * 100 + 350 * sum(responses)) + attention
    assert flops(shape, 1000, sequences, frozen=True) == 4 * (650 * 100 + 350 * sum(responses)) + attention
    shape.tie_word_embeddings = False
    assert flops(shape, 1000, sequences) == 6 * (300 * 100 + 350 * sum(responses)) + attention


def test_every_form_of_the_learner_is_measured_once() -> None:
    from benchmarks.gpu_stages.learning import forms

    for packs in (False, True):
        assert len(set(forms(packs))) == 8 and forms(packs)[0].packing is packs


def test_packed_forms_come_first_where_torch_has_flash_attention(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stage may end before the last forms."""
    import torch

    from benchmarks.gpu_stages.learning import _packs

    for capability, packs in (((9, 0), True), ((7, 5), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert _packs(Setting("cuda", True, tmp_path)) is packs
    assert not _packs(Setting("cpu", True, tmp_path))


def test_a_form_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.gpu_stages import learning

    def engine(work: learning.Work, keys: dict[str, object]) -> None:
        raise ValueError("learner.packing = true: it mixes sequences")

    monkeypatch.setattr(learning, "_free_memory", lambda setting: None)
    monkeypatch.setattr(learning, "_engine", engine)
    work = learning.Work(Setting("cpu", True, tmp_path), tmp_path, 256, [], 0, {})
    rows = list(learning._measured_forms(work, until_s=1e9))
    assert [row["error"] for row in rows] == ["ValueError: learner.packing = true: it mixes sequences"] * 2


def test_broadcasts_between_cards_need_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from benchmarks.gpu_stages.syncing import weight_sync
    from benchmarks.gpu_stages.training import overlap

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Skip, match="broadcast.backend = nccl needs two cards, and 1 is visible"):
        weight_sync(Setting("cuda", True, tmp_path), "4b", "nccl")
    with pytest.raises(Skip, match="need two cards, and 1 is visible"):
        overlap(Setting("cuda", True, tmp_path, tmp_path, tmp_path))


def test_the_run_on_one_card_is_a_valid_configuration(tmp_path: Path, repository: Path) -> None:
    """On a machine with a card the layout is checked only after minutes."""
    from benchmarks.gpu_stages import training
    from cluster.config import load_config

    preset, overrides = training._layout(Setting("cuda", False, tmp_path, tmp_path / "model", tmp_path / "data"))
    for extra in (["broadcast.backend=ipc"], ["broadcast.backend=host"]):
        config = load_config(repository / preset, [*overrides, *training.QUIET, *extra])
        assert config.rollout.max_prompt_tokens >= 271, "the longest prompt of GSM8K with SmolLM2's chat template"
        assert config.learner.tokens_per_micro_batch >= config.rollout.max_sequence_tokens
    two = ["cluster.placement=separate", "cluster.num_gpus=2", "sampler.sleep=none", "queue.staleness=1"]
    assert load_config(repository / preset, [*overrides, *two]).queue.staleness == 1


@pytest.mark.slow
def test_stages_leave_a_result_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path) -> None:
    monkeypatch.chdir(repository)
    environment = dict(os.environ)
    names = ("learner-0.6b-16k", "sync-ipc-4b")
    stages = [part for name in names for part in ("--stage", name)]
    assert call(monkeypatch, "--output", str(tmp_path), "--device", "cpu", "--tiny", *stages) == 0
    results = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert [results[name]["status"] for name in names] == ["ok", "ok"]
    assert all(result["tiny"] and result["device"] == "cpu" for result in results.values())
    learner, sync = (results[name]["figures"] for name in names)
    assert [form["trained_tokens_per_second"] > 0 for form in learner["forms"]] == [True, True]
    assert [form["packing"] for form in learner["forms"]] == [False, True]
    assert learner["mfu"] is None and learner["forms"][0]["predicted_memory_gib"] > 0
    assert sync["ratio"] == pytest.approx(sync["gb_per_second"] / sync["anchor_gb_per_second"])
    with tarfile.open(tmp_path / "logs.tar.gz") as archive:
        assert sorted(archive.getnames()) == [f"stages/{name}.log" for name in sorted(names)]
    assert call(monkeypatch, "--output", str(tmp_path), "--stage", "bandwidth") == 1, "there is no GPU"
    error = json.loads((tmp_path / "results.json").read_text())["stages"]["bandwidth"]["error"]
    assert "no NVIDIA GPU is visible" in error
    assert dict(os.environ) == environment, "a stage chooses a card for its own process"


@pytest.fixture
def nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\ncase $1 in *gpu*) echo 2048;; *) echo 2000000000, 5;; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_a_peak_that_nvidia_smi_did_not_measure_is_missing(
    nvidia_smi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peak up to the failure would be too low; and a machine may not show the processes."""
    card = CardMemory()
    while not card._peaks:
        time.sleep(0.01)
    assert card.stop() == {"card": 2.0}
    assert "nvidia-smi does not show the memory of learner and sampler" in capsys.readouterr().err
    card = CardMemory()
    while not card._peaks:
        time.sleep(0.01)
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    card._thread.join(timeout=30)
    assert card.stop() == {}
    assert "warning: the card's memory is not measured: nvidia-smi failed (Command" in capsys.readouterr().err


def test_memory_belongs_to_the_actor_that_started_the_process(nvidia_smi: Path) -> None:
    """vLLM's engine is a child of the sampler."""
    program = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen(["bash", "-c", f'exec -a ray::SamplerActor {sys.executable} -c "{program}"']) as actor:
        try:
            children = Path(f"/proc/{actor.pid}/task/{actor.pid}/children")
            deadline = time.monotonic() + 30
            while not (child := children.read_text().split()) and time.monotonic() < deadline:
                time.sleep(0.02)
            nvidia_smi.write_text(f"#!/bin/sh\ncase $1 in *gpu*) echo 2048;; *) echo {child[0]}, 512;; esac\n")
            card = CardMemory()
            while "sampler" not in card._peaks and time.monotonic() < deadline:
                time.sleep(0.02)
            assert card.stop() == {"card": 2.0, "sampler": 0.5}
        finally:
            os.kill(int(child[0]), signal.SIGKILL)
            actor.kill()
