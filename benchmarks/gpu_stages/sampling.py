"""Sampled tokens/s of bonrl's sampler against plain vLLM."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import numpy as np

from actors.sampling import Sampling
from actors.settings import BroadcastSettings, RolloutSettings, SamplerSettings
from actors.workers.sampler import Sampler
from benchmarks.gpu_stages.setting import Setting

WARM_UP_TOKENS = 16
_TINY_SHARE = 0.1  # of the card: vLLM makes an object for each block of the cache, and those of a tiny model are small
TURNS = 3  # of each engine, a few seconds each; the median counts


def throughput(setting: Setting, shape: str) -> dict[str, Any]:
    """The same prompts, n and lengths through both; the engines run one after the other, each alone on the card.

    The anchor is `vllm.LLM.generate` with all prompts at once and the parameters of `vllm bench throughput`, which
    computes no log-probabilities; bonrl needs them, so a second anchor has them too. Neither has the float32 logits of
    bonrl's sampler.
    """
    work = Work(setting, shape)
    ours = asyncio.run(_ours(work))
    plain, with_logprobs = _plain(work)
    return {
        "model": work.model.name,
        "prompts": len(work.prompts),
        "n": work.n,
        "response_tokens": work.rollout.max_response_tokens,
        "sampler_tokens_per_second": ours,
        "plain_vllm_tokens_per_second": plain,
        "plain_vllm_with_logprobs_tokens_per_second": with_logprobs,
        "ratio": ours / plain,
        "ratio_with_logprobs": ours / with_logprobs,
    }


class Work:
    """A model, prompts and settings of an engine. The model has no end token, so every sample has full length."""

    def __init__(self, setting: Setting, shape: str, *, graphs: bool = True, share: float = 0.85) -> None:
        self.setting = setting
        self.model = setting.random_model(shape)
        self.n = setting.size(32, 2)
        self.rollout = RolloutSettings(
            max_prompt_tokens=setting.size(256, 16), max_response_tokens=setting.size(256, 8), n=self.n
        )
        vocabulary = setting.size(49_000, 500)
        rng = np.random.default_rng(0)
        self.prompts = rng.integers(3, vocabulary, (setting.size(16, 4), self.rollout.max_prompt_tokens)).tolist()
        self.sampler = SamplerSettings(
            gpus=int(setting.device == "cuda"),
            enforce_eager=setting.device == "cpu" or not graphs,
            gpu_memory_utilization=_TINY_SHARE if setting.tiny else share,
            max_num_seqs=setting.size(512, 8),
            kv_cache_gib=0.1,
            threads=1,
        )

    def make(self, broadcast: BroadcastSettings | None = None) -> Sampler:
        return Sampler(
            "sampler 0", str(self.model), self.setting.dtype, self.sampler, self.rollout, broadcast=broadcast
        )

    def check(self, tokens: int) -> None:
        """Raise RuntimeError unless `tokens` is the number of a whole turn."""
        wanted = len(self.prompts) * self.n * self.rollout.max_response_tokens
        if tokens != wanted:
            raise RuntimeError(f"{tokens} tokens were sampled instead of {wanted}: the lengths differ")


async def _ours(work: Work) -> float:
    sampler = work.make()
    await sampler.start()
    await sample(sampler, work, 0, tokens=WARM_UP_TOKENS)
    rates = []
    for turn in range(1, 1 + TURNS):
        begin = time.perf_counter()
        groups = await sample(sampler, work, turn)
        seconds = time.perf_counter() - begin
        tokens = sum(completion.tokens.size for group in groups for completion in group)
        work.check(tokens)
        rates.append(tokens / seconds)
    await sampler.shutdown()
    return statistics.median(rates)


async def sample(
    sampler: Sampler, work: Work, turn: int, *, tokens: int | None = None, one_at_a_time: bool = False
) -> list[Any]:
    """Sample every prompt; the same turn has the same seeds. `one_at_a_time`: one sample of each, alone."""
    most = min(work.rollout.max_response_tokens, tokens or work.rollout.max_response_tokens)
    requests = (
        sampler.sample(p, 1 if one_at_a_time else work.n, Sampling(), most, 1000 * turn + i, f"{turn}-{i}")
        for i, p in enumerate(work.prompts)
    )
    if one_at_a_time:
        return [await request for request in requests]
    return await asyncio.gather(*requests)


def _plain(work: Work) -> tuple[float, float]:
    """Tokens/s of vLLM alone, without and with log-probabilities of the sampled tokens."""
    from vllm import LLM, SamplingParams

    from actors.vllm_backend.arguments import engine_arguments
    from actors.vllm_backend.environment import environment

    arguments = engine_arguments(str(work.model), work.setting.dtype, work.sampler, work.rollout, 0)
    for ours in ("enable_log_requests", "hf_overrides", "worker_extension_cls"):  # of AsyncLLM, and what bonrl adds
        arguments.pop(ours, None)
    if work.sampler.gpus:
        arguments["gpu_memory_utilization"] = 0.85
    with environment(gpus=work.sampler.gpus, threads=1, engine_process=True):
        llm = LLM(**arguments)
    requests = [{"prompt_token_ids": tokens} for tokens in work.prompts]

    def rate(logprobs: int | None) -> float:
        def generate(tokens: int) -> int:
            parameters = SamplingParams(
                n=work.n, temperature=1.0, top_p=1.0, ignore_eos=True, max_tokens=tokens, detokenize=False,
                logprobs=logprobs,
            )  # fmt: skip
            outputs = llm.generate(requests, parameters, use_tqdm=False)
            return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

        generate(min(WARM_UP_TOKENS, work.rollout.max_response_tokens))
        found = []
        for _ in range(TURNS):
            begin = time.perf_counter()
            tokens = generate(work.rollout.max_response_tokens)
            found.append(tokens / (time.perf_counter() - begin))
            work.check(tokens)
        return statistics.median(found)

    rates = rate(None), rate(0)
    llm.llm_engine.engine_core.shutdown()
    return rates
