"""The gap between the log-probabilities of sampler and learner in bfloat16, with and without rounded logits.

    python -m benchmarks.logprob_gap [--model models/countdown-base] [--prompts 64] [--n 8]

Samples once with vLLM's head in float32, as the sampler does, and once in the model's type, and scores the samples
with the learner's forward pass and with transformers' own, whose logits are rounded to bfloat16. Prints a Markdown
table: mean and largest |difference| of a token, in nats, at temperature 1.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import numpy as np
import torch

from actors.sampling import Sampling
from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend import engine as vllm_backend
from benchmarks.sampler import prompts_of
from learner.backends.model_directory import load_causal_lm
from learner.response_logprobs import ResponseTokens, return_logprobs

MAX_TOKENS = 28
Samples = list[tuple[list[int], np.ndarray, np.ndarray]]  # prompt, response, log-probabilities


async def sample(options: argparse.Namespace, prompts: list[list[int]], head: str) -> Samples:
    """Responses of an engine whose head has the type `head`: float32, or model."""
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
        groups = await asyncio.gather(*calls)
    finally:
        engine.shutdown()
        vllm_backend.engine_arguments = plain
    return [(p, c.tokens, c.logprobs) for p, group in zip(prompts, groups, strict=True) for c in group]


@torch.no_grad()
def scored(model: Any, prompt: list[int], response: np.ndarray, exact: bool) -> np.ndarray:
    """Log-probabilities of one response by the learner's forward pass (`exact`), or from rounded logits."""
    tokens = torch.tensor([[*prompt, *response.tolist()]])
    T, R = tokens.shape[1], len(response)
    if not exact:
        logits = model(tokens, use_cache=False).logits[0, T - R - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, tokens[0, T - R :, None])[:, 0].numpy()
    responses = ResponseTokens(torch.arange(T - R - 1, T - 1), torch.arange(R), (1, R), False, R, R + 1)
    inputs = dict(attention_mask=torch.ones_like(tokens), position_ids=torch.arange(T)[None])
    return model(input_ids=tokens, responses=responses, temperature=1.0, with_entropy=False, **inputs)[0][0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/countdown-base", help="local Hugging Face directory")
    parser.add_argument("--prompts", type=int, default=64, help="Countdown training prompts")
    parser.add_argument("--n", type=int, default=8, help="samples per prompt")
    options = parser.parse_args()
    prompts = prompts_of(options.model, options.prompts)
    rounded, exact = (load_causal_lm(options.model, "bfloat16").eval() for _ in range(2))
    return_logprobs(exact, None)
    print("| sampler's head | learner's logits | tokens | mean gap | largest gap |\n|---|---|---|---|---|")
    for head, kind in (("model", "bfloat16"), ("float32", "float32")):
        samples = asyncio.run(sample(options, prompts, head))
        for model, logits in ((rounded, "bfloat16"), (exact, "float32")):
            gaps = [np.abs(scored(model, p, r, model is exact) - logprobs) for p, r, logprobs in samples]
            gap = np.concatenate(gaps)
            print(f"| {kind} | {logits} | {len(gap)} | {gap.mean():.2e} | {gap.max():.2e} |", flush=True)


if __name__ == "__main__":
    main()
