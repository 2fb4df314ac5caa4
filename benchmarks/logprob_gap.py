"""The gap between the log-probabilities of sampler and learner in bfloat16, with and without rounded logits.

    python -m benchmarks.logprob_gap [--model models/countdown-base] [--prompts 64] [--n 8]

Samples once with the head of vLLM in the type of the model, as bonrl does on CPUs, and once in float32, as on GPUs, and
scores the samples with rounded and with float32 logits of the same model. Prints a Markdown table: sampled tokens per
second, mean and largest |difference| of a token, in nats, at temperature 1.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import numpy as np
import torch

from actors.sampling import Sampling
from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend import engine as vllm_backend
from benchmarks.sampler import prompts_of
from learner.backends.model_directory import load_causal_lm

MAX_TOKENS = 28
Samples = list[tuple[list[int], np.ndarray, np.ndarray]]  # prompt, response, log-probabilities


async def sample(options: argparse.Namespace, prompts: list[list[int]], head: str) -> tuple[Samples, float]:
    """Responses of an engine whose head has the type `head` (float32, or model), and their tokens per second."""
    plain = vllm_backend.engine_arguments

    def changed(*arguments: Any) -> dict[str, Any]:
        return plain(*arguments) | {"hf_overrides": {"head_dtype": head}}

    vllm_backend.engine_arguments = changed
    rollout = RolloutSettings(max_prompt_tokens=32, max_response_tokens=MAX_TOKENS)
    engine = vllm_backend.VllmEngine(options.model, "bfloat16", SamplerSettings(kv_cache_gib=0.25), rollout)
    try:
        await engine.start()
        calls = [
            engine.generate(p, n=options.n, sampling=Sampling(), max_tokens=MAX_TOKENS, seed=i, request_id=f"{i}")
            for i, p in enumerate(prompts)
        ]
        start = time.perf_counter()
        groups = await asyncio.gather(*calls)
        seconds = time.perf_counter() - start
    finally:
        engine.shutdown()
        vllm_backend.engine_arguments = plain
    samples = [(p, c.tokens, c.logprobs) for p, group in zip(prompts, groups, strict=True) for c in group]
    return samples, sum(len(response) for _, response, _ in samples) / seconds


@torch.no_grad()
def scored(model: Any, prompt: list[int], response: np.ndarray, rounded: bool) -> np.ndarray:
    """Log-probabilities of one response from float32 logits, or from such that are `rounded` to bfloat16."""
    tokens = torch.tensor([[*prompt, *response.tolist()]])
    R = len(response)
    hidden_RH = model.model(tokens, use_cache=False).last_hidden_state[0, -R - 1 : -1]
    weight_VH = model.get_output_embeddings().weight
    logits_RV = (hidden_RH @ weight_VH.T).float() if rounded else hidden_RH.float() @ weight_VH.float().T
    return logits_RV.log_softmax(-1).gather(-1, tokens[0, -R:, None])[:, 0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/countdown-base", help="local Hugging Face directory")
    parser.add_argument("--prompts", type=int, default=64, help="Countdown training prompts")
    parser.add_argument("--n", type=int, default=8, help="samples per prompt")
    options = parser.parse_args()
    prompts = prompts_of(options.model, options.prompts)
    model = load_causal_lm(options.model, "bfloat16").eval()
    columns = ["sampler's logits", "learner's logits", "tokens", "tokens/s", "mean gap", "largest gap"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for head, kind in (("model", "rounded"), ("float32", "float32")):
        samples, speed = asyncio.run(sample(options, prompts, head))
        for logits in ("rounded", "float32"):
            gaps = [np.abs(scored(model, p, r, logits == "rounded") - logprobs) for p, r, logprobs in samples]
            gap = np.concatenate(gaps)
            print(f"| {kind} | {logits} | {len(gap)} | {speed:.0f} | {gap.mean():.2e} | {gap.max():.2e} |", flush=True)


if __name__ == "__main__":
    main()
