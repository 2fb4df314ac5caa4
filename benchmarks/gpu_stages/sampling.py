"""Sampled tokens/s of bonrl's sampler against plain vLLM, and equal log-probabilities after unchanged updates."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import numpy as np

from actors.sampling import Sampling
from actors.settings import BroadcastSettings, RolloutSettings, SamplerSettings
from actors.weights import buckets
from actors.workers.sampler import Sampler
from benchmarks.gpu_stages.setting import Setting
from benchmarks.weight_sync import in_buckets

UPDATES = 3
BUCKET_BYTES = 256 << 20


def throughput(setting: Setting, shape: str) -> dict[str, Any]:
    """The same prompts, n and lengths through both; the engines run one after the other, each alone on the card.

    The anchor is `vllm.LLM.generate` with all prompts at once, which is what `vllm bench throughput` times.
    """
    work = Work(setting, shape)
    ours, plain = asyncio.run(_ours(work)), _plain(work)
    return {
        "model": str(work.model.name),
        "prompts": len(work.prompts),
        "n": work.n,
        "response_tokens": work.rollout.max_response_tokens,
        "sampler_tokens_per_second": ours,
        "plain_vllm_tokens_per_second": plain,
        "ratio": ours / plain,
    }


def unchanged_updates(setting: Setting, *, graphs: bool) -> dict[str, Any]:
    """Three updates to the weights that the engine has; the same seeds must give the same tokens and log-probabilities.

    vllm#48312 and #50523 report engines that answer differently after an update with equal weights.
    """
    return asyncio.run(_unchanged(Work(setting, "0.6b", graphs=graphs), graphs))


class Work:
    """A model, prompts and settings of an engine."""

    def __init__(self, setting: Setting, shape: str, *, graphs: bool = True) -> None:
        self.setting = setting
        self.model = setting.random_model(shape)
        self.n = setting.size(32, 2)
        self.rollout = RolloutSettings(
            max_prompt_tokens=setting.size(256, 16), max_response_tokens=setting.size(256, 8), n=self.n
        )
        vocabulary = setting.size(49_000, 500)
        rng = np.random.default_rng(0)
        self.prompts = rng.integers(3, vocabulary, (setting.size(64, 4), self.rollout.max_prompt_tokens)).tolist()
        self.sampler = SamplerSettings(
            gpus=int(setting.device == "cuda"),
            enforce_eager=setting.device == "cpu" or not graphs,
            max_num_seqs=setting.size(1024, 8),
            kv_cache_gib=0.1,
            threads=1,
        )

    def make(self, broadcast: BroadcastSettings | None = None) -> Sampler:
        return Sampler(
            "sampler 0", str(self.model), self.setting.dtype, self.sampler, self.rollout, broadcast=broadcast
        )


async def _ours(work: Work) -> float:
    sampler = work.make()
    await sampler.start()
    rates = []
    for turn in range(3):  # the first one warms up
        begin = time.perf_counter()
        groups = await sample(sampler, work, turn)
        rates.append(sum(c.tokens.size for group in groups for c in group) / (time.perf_counter() - begin))
    await sampler.shutdown()
    return statistics.median(rates[1:])


async def sample(sampler: Sampler, work: Work, turn: int) -> list[Any]:
    tokens = work.rollout.max_response_tokens
    requests = (
        sampler.sample(p, work.n, Sampling(), tokens, 1000 * turn + i, f"{turn}-{i}")
        for i, p in enumerate(work.prompts)
    )
    return await asyncio.gather(*requests)


def _plain(work: Work) -> float:
    from vllm import LLM, SamplingParams

    from actors.vllm_backend.engine import engine_arguments
    from actors.vllm_backend.environment import environment

    arguments = engine_arguments(str(work.model), work.setting.dtype, work.sampler, work.rollout, 0)
    del arguments["enable_log_requests"]  # of AsyncLLM only
    if work.sampler.gpus:
        arguments["gpu_memory_utilization"] = 0.85
    with environment(gpus=work.sampler.gpus, threads=1, engine_process=True):
        llm = LLM(**arguments)
    parameters = SamplingParams(
        n=work.n, max_tokens=work.rollout.max_response_tokens, logprobs=0, detokenize=False, stop_token_ids=[2]
    )
    requests = [{"prompt_token_ids": tokens} for tokens in work.prompts]
    rates = []
    for _ in range(3):
        begin = time.perf_counter()
        outputs = llm.generate(requests, parameters, use_tqdm=False)
        total = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
        rates.append(total / (time.perf_counter() - begin))
    llm.llm_engine.engine_core.shutdown()
    return statistics.median(rates[1:])


async def _unchanged(work: Work, graphs: bool) -> dict[str, Any]:
    sampler = work.make()
    await sampler.start()
    before, differences, equal_tokens = await sample(sampler, work, 0), [], True
    for version in range(1, UPDATES + 1):
        await update(sampler, work, version)
        after = await sample(sampler, work, 0)
        for one, other in zip((c for g in before for c in g), (c for g in after for c in g), strict=True):
            same = np.array_equal(one.tokens, other.tokens)
            equal_tokens &= same
            if same:
                differences.append(float(np.abs(one.logprobs - other.logprobs).max()))
    await sampler.shutdown()
    largest = max(differences, default=float("nan"))
    return {
        "cuda_graphs": graphs and work.setting.device == "cuda",
        "updates": UPDATES,
        "tokens_equal": equal_tokens,
        "largest_logprob_difference": largest,
        "passed": equal_tokens and largest == 0.0,
    }


async def update(sampler: Sampler, work: Work, version: int) -> dict[str, Any]:
    """Load the weights of the model directory through the `host` back-end, as an update does; its report."""
    from safetensors.torch import load_file

    weights = [pair for file in sorted(work.model.glob("*.safetensors")) for pair in load_file(file).items()]
    manifests = [
        buckets.write_bucket(buckets.new_path("benchmark"), part) for part in in_buckets(weights, BUCKET_BYTES)
    ]
    try:
        return await sampler.load_weights(version, manifests)
    finally:
        buckets.unlink(manifests)
