"""Steps of a real run: time, its parts, and the peak of the card's memory against the dry run's prediction."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import threading
from typing import Any

from benchmarks.gpu_stages.setting import Setting, Skip
from cluster.checks.dry_run import load_model_facts
from cluster.checks.estimates import GIB, derive
from cluster.config import load_config

LIMIT_S = 480.0
QUIET = ["evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every=0", "wandb.mode=disabled"]


def one_card(setting: Setting) -> dict[str, Any]:
    """A few steps of GSM8K, 64 prompts x 32 samples, sampler and learner on one card.

    TRL is not run here: its figure needs the same prompts with `vllm_mode=colocate` in its own environment.
    """
    preset, overrides = _layout(setting)
    directory = setting.scratch / "runs"
    shutil.rmtree(directory / "one-card", ignore_errors=True)
    overrides = [*overrides, *QUIET, f"run.directory={directory}", "run.name=one-card"]
    config = load_config(preset, overrides)
    figures = derive(config, load_model_facts(config, must_exist=True)[0])
    card = _CardMemory() if setting.device == "cuda" else None
    command = [sys.executable, "-m", "cluster.cli", "train", "--config", preset, *overrides]
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        try:
            status = process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # the run saves a checkpoint and ends within 30 s
            status = process.wait(timeout=60)
    peak = card.stop() if card else None
    rows = [json.loads(line) for line in (directory / "one-card" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "time/step_s" in row][1:]  # the first one compiles
    if not steps:
        raise RuntimeError(f"the run ended with status {status} and measured no second step")
    found = {name: statistics.median(row[name] for row in steps) for name in _TIMES if name in steps[0]}
    predicted = (figures.learner_memory or 0.0) + (figures.sampler_memory or 0.0) if peak else None
    return found | {
        "steps": len(steps),
        "status": status,
        "peak_memory_gib": peak,
        "predicted_memory_gib": predicted and predicted / GIB,
        "predicted_over_measured": predicted and peak and predicted / GIB / peak,
    }


_TIMES = (
    "time/step_s",
    "time/sampling_share",
    "time/learning_share",
    "time/sync_share",
    "time/other_share",
    "throughput/sampled_tokens_per_s",
    "throughput/trained_tokens_per_s",
    "logprob_gap/mean",
)


def _layout(setting: Setting) -> tuple[str, list[str]]:
    if setting.device == "cpu":
        small = ["rollout.n=4", "objective.k=2", "rollout.prompts_per_step=4", "run.steps=3"]
        return "cluster/presets/local.yaml", small
    if setting.model is None or setting.data is None:
        raise Skip("needs --model (SmolLM2-135M-Instruct) and --data (the directory of GSM8K)")
    steps = f"run.steps={setting.size(6, 2)}"
    size = ["rollout.n=32", "rollout.prompts_per_step=64", "rollout.max_response_tokens=256"]
    paths = [f"model.path={setting.model}", f"task.path={setting.data}", "model.parameters_billions=null"]
    return "cluster/presets/one-gpu.yaml", [steps, *size, *paths, "cluster.gpu_memory_gib=null"]


class _CardMemory:
    """The largest memory in use on the first visible card, asked four times a second until nvidia-smi fails."""

    def __init__(self) -> None:
        self._peak_mib = 0.0
        self._failure = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read_memory, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """GiB; None, with a warning, if nvidia-smi failed, because a peak after that would be missed."""
        self._over.set()
        self._thread.join(timeout=10.0)
        if self._failure:
            print(f"warning: peak_memory_gib is not measured: {self._failure}", file=sys.stderr, flush=True)
            return None
        return self._peak_mib / 1024

    def _read_memory(self) -> None:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self._over.wait(0.25):
            try:
                used = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
                self._peak_mib = max(self._peak_mib, float(used.split()[0]))
            except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
                self._failure = f"nvidia-smi failed ({error})"
                return
