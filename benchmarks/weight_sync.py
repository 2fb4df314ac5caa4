"""Weight sync: seconds from weights in the learner's memory to a resumed sampler, and bytes per second over memcpy's.

One sync writes the packed buckets to shared memory (`publish`), pauses generation, loads them through vLLM's four
phases, compares the echoed version and resumes. It copies every byte at least three times (into the bucket, into the
layer, into the packed form that the CPU kernels want), so a third of memcpy's bandwidth is the ceiling.

    python -m benchmarks.weight_sync [--model models/countdown-base] [--repeats 7]

Without --model it also measures a random 50-million-parameter Llama, where bandwidth and not latency decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from actors.settings import BroadcastSettings, RolloutSettings, SamplerSettings
from actors.weights import Destination, Published, make_transfer
from actors.weights.base import NamedTensor
from actors.workers.sampler import Sampler

ROLLOUT = RolloutSettings(max_prompt_tokens=32, max_response_tokens=28)


def memcpy_bytes_per_second(nbytes: int, repeats: int) -> float:
    """Median rate of copying `nbytes` between two warm arrays, on one thread."""
    source, target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    rates = []
    for _ in range(repeats):
        begin = time.perf_counter()
        np.copyto(target, source)
        rates.append(nbytes / (time.perf_counter() - begin))
    return statistics.median(rates)


def write_random_model(directory: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=9,
        num_attention_heads=10,
        num_key_value_heads=10,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).float().save_pretrained(directory)


async def measure(name: str, model_path: str, bucket_bytes: int, repeats: int) -> dict[str, Any]:
    """Median figures of `repeats` updates of one sampler; it runs without Ray, which moves none of these bytes."""
    sampler = Sampler("sampler 0", model_path, "float32", SamplerSettings(kv_cache_gib=0.1, threads=2), ROLLOUT)
    await sampler.start()
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    transfer, here = make_transfer(BroadcastSettings(backend="host"), "benchmark"), Destination("node", "sampler 0")
    seconds, published, pauses, nbytes = [], [], [], 0
    for version in range(repeats + 1):
        begin = time.perf_counter()
        parts = in_buckets(list(model.named_parameters()), bucket_bytes)
        payload = transfer.publish(parts, rank=0, here="node", receivers=[here])
        middle = time.perf_counter()
        report = await sampler.load_weights(version, *transfer.address(Published("node", version, payload), here))
        transfer.release(payload)
        if version:  # the first one warms up
            seconds.append(time.perf_counter() - begin)
            published.append(middle - begin)
            pauses.append(report["pause_seconds"])
        nbytes = report["nbytes"]
    await sampler.shutdown()
    rate, memcpy = nbytes / statistics.median(seconds), memcpy_bytes_per_second(nbytes, repeats)
    return {
        "model": name,
        "mib": round(nbytes / 2**20, 1),
        "seconds": round(statistics.median(seconds), 4),
        "publish_seconds": round(statistics.median(published), 4),
        "pause_seconds": round(statistics.median(pauses), 4),
        "gib_per_second": round(rate / 2**30, 3),
        "memcpy_gib_per_second": round(memcpy / 2**30, 2),
        "ratio": round(rate / memcpy, 4),
    }


def in_buckets(tensors: list[NamedTensor], limit: int) -> list[list[NamedTensor]]:
    """Consecutive tensors in parts of at most about `limit` bytes."""
    parts: list[list[NamedTensor]] = [[]]
    size = 0
    for name, tensor in tensors:
        if size and size + tensor.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append((name, tensor))
        size += tensor.nbytes
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="local Hugging Face directory; default: the shipped and a random model")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--bucket-mib", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        models = [(options.model or "models/countdown-base",) * 2]
        if options.model is None:
            write_random_model(directory)
            models.append(("random Llama, 50 M", directory))
        for name, path in models:
            print(json.dumps(asyncio.run(measure(name, path, options.bucket_mib * 2**20, options.repeats))))


if __name__ == "__main__":
    main()
