"""The stages of `benchmarks.gpu` in the order in which they run.

The first five take about 18 minutes and cover each part once: learner, the whole step, sampler, and TRL as the anchor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from benchmarks.gpu_stages.setting import Setting


class Stage(NamedTuple):
    """measures: what the figure is. bar: the least value that is wanted. seconds: expected on an H200, not measured.
    run: imports and measures."""

    measures: str
    bar: str
    seconds: float
    run: Callable[[Setting], dict[str, Any]]


def _call(module: str, function: str, options: dict[str, Any], setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = getattr(import_module(f"benchmarks.gpu_stages.{module}"), function)(setting, **options)
    return found


def _stage(measures: str, bar: str, seconds: float, module: str, function: str, **options: Any) -> Stage:
    return Stage(measures, bar, seconds, partial(_call, module, function, options))


def _learner(shape: str, tokens: int, bar: str, **options: Any) -> Stage:
    what = f"learner MFU, {shape}, {tokens} tokens a micro-batch{', LoRA' if options else ''}"
    options = {"shape": shape, "tokens": tokens, "until_s": 200.0} | options
    return _stage(what, bar, 230, "learning", "utilization", **options)


def _sync(shape: str, backend: str, bar: str) -> Stage:
    seconds, options = {"4b": 120, "8b": 170}[shape], {"shape": shape, "backend": backend}
    return _stage(f"weight sync, {shape}, {backend}", bar, seconds, "syncing", "weight_sync", **options)


def _unchanged(backend: str, graphs: bool) -> Stage:
    what = f"log-probabilities after three updates of unchanged weights by {backend}, CUDA graphs: {graphs}"
    return _stage(what, "equal", 150, "unchanged", "unchanged_updates", backend=backend, graphs=graphs)


def _sampling(shape: str, seconds: float) -> Stage:
    what = f"tokens/s of the sampler / plain vLLM without log-probabilities, {shape}"
    return _stage(what, "0.95", seconds, "sampling", "throughput", shape=shape)


def _one_card(backend: str, sleep: str = "none") -> Stage:
    what = f"a GSM8K step on one card, its parts and its memory, weights by {backend}, sampler.sleep = {sleep}"
    return _stage(what, "other 5 %, memory 0.9 to 1.1", 280, "training", "one_card", backend=backend, sleep=sleep)


_DEVICE_BAR, _HOST_BAR = "half of a device copy", "half of a pinned copy to the card"
STAGES = {
    "bandwidth": _stage("copies within the card and to the host", "-", 30, "syncing", "bandwidth"),
    "learner-0.6b-16k": _learner("0.6b", 16_384, "30 %"),
    "one-card": _one_card("host"),
    "sampling-0.6b": _sampling("0.6b", 250),
    "trl-colocate": _stage("the step of one-card in TRL, vllm_mode=colocate", "2 x ours", 280, "trl_colocate", "steps"),
    "sync-ipc-4b": _sync("4b", "ipc", _DEVICE_BAR),
    "head": _stage(
        "time of the output head, 0.6b / plain torch", "-", 60, "learning", "output_head", shape="0.6b", tokens=4096
    ),
    "learner-4b-lora": _learner("4b", 16_384, "35 %", lora_rank=16),
    "learner-0.6b-65k": _learner("0.6b", 65_536, "40 %"),
    "unchanged-eager": _unchanged("host", graphs=False),
    "unchanged-graphs": _unchanged("host", graphs=True),
    "unchanged-ipc": _unchanged("ipc", graphs=True),
    "one-card-ipc": _one_card("ipc"),
    "one-card-sleep": _one_card("host", "weights"),
    "sync-ipc-8b": _sync("8b", "ipc", _DEVICE_BAR),
    "sync-host-4b": _sync("4b", "host", _HOST_BAR),
    "sync-host-8b": _sync("8b", "host", _HOST_BAR),
    "sampling-0.1b": _sampling("0.1b", 220),
    "sampling-8b": _sampling("8b", 350),
    "sync-nccl-4b": _sync("4b", "nccl", "two cards"),
    "sync-nccl-8b": _sync("8b", "nccl", "two cards"),
    "overlap": _stage("overlap efficiency at staleness 1 on two cards", "0.9", 280, "training", "overlap"),
}
