"""Steps of a real run: time, its parts, and the peak of the card's memory against the dry run's prediction."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages.card_memory import CardMemory
from benchmarks.gpu_stages.setting import GIB, Setting, Skip
from cluster.checks.dry_run import load_model_facts
from cluster.checks.memory.estimates import derive
from cluster.config import load_config

STEPS = 3  # the first one warms up
PROMPTS, SAMPLES, PROMPT_TOKENS, RESPONSE_TOKENS = 64, 32, 320, 256  # the longest prompt of GSM8K has 271 tokens
TOKENS_PER_MICRO_BATCH = 18_432
_STOP_S = 60.0  # a run that is stopped saves a checkpoint and ends within 30 s
QUIET = ["evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every=0", "wandb.mode=disabled"]
_FIGURES = (
    "time/step_s",
    "time/sampling_share",
    "time/learning_share",
    "time/sync_share",
    "time/other_share",
    "time/overlap_efficiency",
    "sync/seconds",
    "throughput/sampled_tokens_per_s",
    "throughput/trained_tokens_per_s",
    "logprob_gap/mean",
)


def one_card(setting: Setting, *, backend: str, sleep: str) -> dict[str, Any]:
    """A few steps of GSM8K, 64 prompts x 32 samples, sampler and learner on one card, staleness 0."""
    preset, overrides = _layout(setting)
    if setting.device == "cuda":
        overrides += [f"broadcast.backend={backend}", f"sampler.sleep={sleep}"]
    found, rows = _train(setting, preset, overrides, f"one-card-{backend}-{sleep}")
    neither = statistics.median(row["time/sync_share"] + row["time/other_share"] for row in rows)
    return found | {"neither_sampling_nor_learning_share": neither, "backend": backend, "sleep": sleep}


def overlap(setting: Setting) -> dict[str, Any]:
    """The same steps at staleness 1, sampler and learner on a card each."""
    preset, overrides = _layout(setting)
    if setting.device == "cuda":
        import torch

        if (cards := torch.cuda.device_count()) < 2:
            raise Skip(f"sampler and learner at the same time need two cards, and {cards} is visible")
        overrides += ["cluster.placement=separate", "cluster.num_gpus=2", "sampler.sleep=none"]
    found, _ = _train(setting, preset, [*overrides, "queue.staleness=1", f"run.steps={STEPS + 2}"], "overlap")
    return found


def _train(
    setting: Setting, preset: str, overrides: list[str], name: str
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Run the steps; their figures, and the rows of all but the first."""
    directory = setting.scratch / "runs"
    shutil.rmtree(directory / name, ignore_errors=True)
    overrides = [f"run.steps={STEPS}", *overrides, *QUIET, f"run.directory={directory}", f"run.name={name}"]
    config = load_config(preset, overrides)
    figures = derive(config, load_model_facts(config, must_exist=True)[0])
    card = CardMemory() if setting.device == "cuda" else None
    command = [sys.executable, "-m", "cluster.cli", "train", "--config", preset, *overrides]
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        try:
            status = process.wait(timeout=max(10.0, setting.left() - _STOP_S))
        except subprocess.TimeoutExpired:
            process.terminate()
            status = process.wait(timeout=_STOP_S - 10.0)
    memory = card.stop() if card else {}
    rows = _rows(directory / name / "metrics.jsonl")[1:]
    if not rows:
        raise RuntimeError(f"the run ended with status {status} and measured no second step")
    found: dict[str, Any] = {name: statistics.median(row[name] for row in rows) for name in _FIGURES if name in rows[0]}
    found |= {"steps": len(rows), "status": status}
    for role, predicted in (("learner", figures.learner_memory), ("sampler", figures.sampler_memory)):
        measured = memory.get(role)
        found |= {
            f"{role}_predicted_gib": predicted and predicted / GIB,
            f"{role}_peak_gib": measured,
            f"{role}_predicted_over_measured": predicted and measured and predicted / GIB / measured,
        }
    return found | {"card_peak_gib": memory.get("card")}, rows


def _rows(file: Path) -> list[dict[str, float]]:
    if not file.is_file():
        return []
    return [row for row in map(json.loads, file.read_text().splitlines()) if "time/step_s" in row]


def _layout(setting: Setting) -> tuple[str, list[str]]:
    """Preset and overrides."""
    if setting.device == "cpu":
        return "cluster/presets/local.yaml", ["rollout.n=4", "objective.k=2", "rollout.prompts_per_step=4"]
    if setting.model is None or setting.data is None:
        raise Skip("needs --model (SmolLM2-135M-Instruct) and --data (the directory of GSM8K)")
    return "cluster/presets/one-gpu.yaml", [
        f"model.path={setting.model}",
        "model.parameters_billions=null",
        f"task.path={setting.data}",
        f"rollout.n={SAMPLES}",
        f"rollout.prompts_per_step={PROMPTS}",
        f"rollout.max_prompt_tokens={PROMPT_TOKENS}",
        f"rollout.max_response_tokens={RESPONSE_TOKENS}",
        f"learner.tokens_per_micro_batch={TOKENS_PER_MICRO_BATCH}",
        "sampler.max_num_seqs=512",
        "agreement.max_gap=0.2",  # bfloat16 of a small model: about 0.05 was measured
        "cluster.gpu_memory_gib=null",
    ]
