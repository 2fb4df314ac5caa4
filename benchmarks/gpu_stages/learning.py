"""Model FLOPs utilization of the learner, and the speed of moving weights off the card and into an engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from actors.settings import BroadcastSettings
from actors.weights import Destination, Published, make_transfer
from actors.weights.base import NamedTensor
from benchmarks.gpu_stages.sampling import Work
from benchmarks.gpu_stages.setting import Setting, Skip, synchronize
from benchmarks.learner import free_port
from benchmarks.weight_sync import in_buckets
from cluster.checks.model_facts import read_model
from learner.batching import TrainingSequence
from learner.engine import Engine
from learner.settings import LearnerSettings, LossSettings


def utilization(setting: Setting, shape: str, tokens: int, lora_rank: int | None = None) -> dict[str, Any]:
    """Training with sequences of 2048 tokens, `tokens` in a micro-batch, one micro-batch a step.

    FLOPs of a token: 6 x parameters, and 6 x layers x heads x head size x length for causal attention (forward and
    backward, half of the square); recomputation by activation checkpointing is not counted. With adapters (`lora_rank`)
    4 x parameters, because the frozen weights have no gradient.
    """
    tokens, length = setting.size(tokens, 256), setting.size(2048, 64)
    engine = _engine(setting, shape, tokens, {"lora": {"rank": lora_rank}} if lora_rank else {})
    rng = np.random.default_rng(0)
    vocabulary = engine.config.vocab_size
    prompt = length // 4
    sequences = [
        TrainingSequence(
            prompt_tokens=rng.integers(3, vocabulary, prompt).astype(np.int32),
            response_tokens=rng.integers(3, vocabulary, length - prompt).astype(np.int32),
            behaviour_logprobs=np.full(length - prompt, -np.log(vocabulary), dtype=np.float32),
            advantage=float(rng.normal()),
        )
        for _ in range(tokens // length)
    ]
    seconds = []
    for step in range(setting.size(6, 2)):
        synchronize(setting.device)
        begin = time.perf_counter()
        engine.train_step(sequences, float(len(sequences)), step)
        synchronize(setting.device)
        seconds.append(time.perf_counter() - begin)
    parameters = read_model(str(setting.random_model(shape))).parameters
    rate = tokens / statistics.median(seconds[1:])
    flops = rate * flops_per_token(engine.config, parameters, length, frozen=bool(lora_rank))
    peak = setting.peak_flops()
    found = {
        "parameters": parameters,
        "lora_rank": lora_rank,
        "tokens_per_micro_batch": tokens,
        "sequence_tokens": length,
        "trained_tokens_per_second": rate,
        "tflops": flops / 1e12,
        "peak_tflops": peak and peak / 1e12,
        "mfu": peak and flops / peak,
        "peak_memory_gib": _peak_memory(setting),
    }
    engine.close()
    return found


def flops_per_token(config: Any, parameters: int, length: int, *, frozen: bool = False) -> float:
    """FLOPs of forward and backward of one token in a sequence of `length` tokens; `frozen`: only adapters train."""
    attention = 6.0 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length
    return (4.0 if frozen else 6.0) * parameters + attention


def weight_sync(setting: Setting, shape: str, backend: str) -> dict[str, Any]:
    """One update from the learner's weights to a resumed engine, in GB/s (1e9 bytes).

    Both are on the same card, and with nccl on two.
    """
    import torch

    if backend == "nccl" and setting.device == "cuda" and torch.cuda.device_count() < 2:
        raise Skip(f"broadcast.backend = nccl needs two cards, and {torch.cuda.device_count()} is visible")
    return asyncio.run(_weight_sync(setting, shape, BroadcastSettings(backend=backend)))  # type: ignore[arg-type]


async def _weight_sync(setting: Setting, shape: str, broadcast: BroadcastSettings) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    if setting.device == "cpu":
        torch.multiprocessing.set_sharing_strategy("file_system")  # the handles of ipc must mean something elsewhere
    work = Work(setting, shape, graphs=False)
    share = {"gpu_memory_utilization": 0.5} if setting.device == "cuda" else {}
    work.sampler = work.sampler.model_copy(update=share)
    sampler = work.make(broadcast)
    with _on_second_card(setting, broadcast):
        await sampler.start()
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=getattr(torch, setting.dtype)).to(setting.device)
    transfer, here = make_transfer(broadcast, "benchmark"), Destination("node", "sampler 0")
    seconds, pauses, nbytes = [], [], 0
    for version in range(1, 5):
        synchronize(setting.device)
        begin = time.perf_counter()
        payload = transfer.publish(_copies(model, transfer.bucket_device), rank=0, here="node", receivers=[here])
        try:
            addressed = transfer.address(Published("node", version, payload), here)
            report = await sampler.load_weights(version, *addressed)
        finally:
            transfer.release(payload)
        seconds.append(time.perf_counter() - begin)
        pauses.append(report["pause_seconds"])
        nbytes = report["nbytes"]
    await sampler.shutdown()
    took = statistics.median(seconds[1:])  # the first one warms up
    return {
        "backend": broadcast.backend,
        "bytes": nbytes,
        "seconds": took,
        "pause_seconds": statistics.median(pauses[1:]),
        "gb_per_second": nbytes / took / 1e9,
    }


@contextlib.contextmanager
def _on_second_card(setting: Setting, broadcast: BroadcastSettings) -> Iterator[None]:
    """With nccl, an engine that starts inside the block gets the second card; this process keeps the first."""
    import torch

    if setting.device == "cpu" or broadcast.chosen_backend != "nccl":
        yield
        return
    torch.cuda.init()  # with all cards; later changes of the variable do not reach this process
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[1] if before else "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _copies(model: Any, device: str | None) -> Iterator[list[NamedTensor]]:
    """The weights in buckets, copied as the learner's engine does."""
    for part in in_buckets(list(model.named_parameters()), BroadcastSettings().bucket_mib * 2**20):
        yield [(name, p.detach().to(device or p.device, copy=True)) for name, p in part]


def bandwidth(setting: Setting) -> dict[str, Any]:
    """GB/s of copies within the card, and to and from host memory: what weight sync is compared with."""
    import torch

    nbytes = setting.size(1 << 30, 1 << 22)
    here = torch.empty(nbytes, dtype=torch.uint8, device=setting.device)
    host = torch.empty(nbytes, dtype=torch.uint8)
    pinned = host.pin_memory() if setting.device == "cuda" else host
    pairs = {
        "device_to_device": (here, torch.empty_like(here)),
        "device_to_host": (here, host),
        "device_to_pinned_host": (here, pinned),
        "pinned_host_to_device": (pinned, here),
    }
    found: dict[str, Any] = {"bytes": nbytes}
    for name, (source, target) in pairs.items():
        rates = []
        for _ in range(5):
            synchronize(setting.device)
            begin = time.perf_counter()
            target.copy_(source)
            synchronize(setting.device)
            rates.append(nbytes / (time.perf_counter() - begin) / 1e9)
        found[f"{name}_gb_per_second"] = statistics.median(rates)
    return found


def _engine(setting: Setting, shape: str, tokens: int, options: dict[str, Any]) -> Engine:
    gpu = setting.device == "cuda"
    learner = LearnerSettings(
        tokens_per_micro_batch=tokens,
        activation_checkpointing=gpu,
        zero_stage=int(gpu),
        gpus_per_rank=int(gpu),
        threads=1,
        **options,
    )
    return Engine(
        setting.random_model(shape),
        dtype=setting.dtype,
        learner=learner,
        loss=LossSettings(),
        master_port=free_port(),
        device=setting.device,
    )


def _peak_memory(setting: Setting) -> float | None:
    import torch

    return torch.cuda.max_memory_reserved() / 2**30 if setting.device == "cuda" else None
