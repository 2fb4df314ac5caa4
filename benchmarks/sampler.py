"""Sampler actor against plain vLLM: generated tokens per second on the same prompts, in the same run.

The actor adds a Ray call per prompt, behaviour log-probabilities, weight versions and an event loop to what
`vllm.LLM.generate` does. Both engines are up at the same time and take turns, so that a slow phase of the machine
hits both; figures are medians of the turns.

    python -m benchmarks.sampler [--model models/countdown-base] [--prompts 32] [--n 16] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import ray

from actors.sampling import Sampling
from actors.settings import RolloutSettings, SamplerSettings
from actors.workers.sampler import Sampler
from verifiers.settings import TaskSettings
from verifiers.tasks.registry import make_task
from verifiers.text.rendering import render
from verifiers.text.stop_tokens import stop_token_ids  # the same end-of-sequence ids for both

SETTLE_SECONDS = 1.5  # plain vLLM's worker polls for a second after its last token


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/countdown-base", help="local Hugging Face directory")
    parser.add_argument("--prompts", type=int, default=32, help="Countdown training prompts")
    parser.add_argument("--n", type=int, default=16, help="samples per prompt")
    parser.add_argument("--max-tokens", type=int, default=28, help="longest response in tokens")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads of each engine")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each engine")
    return parser.parse_args()


def prompts_of(model: str, count: int) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = make_task(TaskSettings()).prompts("train")[:count]
    return [render(prompt, tokenizer, TaskSettings()) for prompt in prompts]


class Actor:
    """Our sampler, as the job uses it."""

    def __init__(self, options: argparse.Namespace, prompts: list[list[int]]) -> None:
        settings = SamplerSettings(threads=options.threads, kv_cache_gib=0.5)
        rollout = RolloutSettings(max_prompt_tokens=32, max_response_tokens=options.max_tokens)
        actor_class = ray.remote(num_cpus=1)(Sampler)
        self.actor = actor_class.remote("sampler 0", options.model, "float32", settings, rollout)
        self.options, self.prompts = options, prompts
        ray.get(self.actor.start.remote(), timeout=300)

    def turn(self, repeat: int) -> int:
        options = self.options
        groups = ray.get(
            [
                self.actor.sample.remote(
                    p, options.n, Sampling(), options.max_tokens, repeat * 1000 + i, f"{repeat}-{i}"
                )
                for i, p in enumerate(self.prompts)
            ],
            timeout=600,
        )
        return sum(completion.tokens.size for group in groups for completion in group)

    def stop(self) -> None:
        ray.get(self.actor.shutdown.remote(), timeout=60)


class Plain:
    """`vllm.LLM` as its documentation shows it, with the same limits and the same sampling distribution."""

    def __init__(self, options: argparse.Namespace, prompts: list[list[int]], **extra: Any) -> None:
        import os

        os.environ.update(OMP_NUM_THREADS=str(options.threads), VLLM_LOGGING_LEVEL="ERROR")
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{options.threads - 1}" if options.threads > 1 else "nobind"
        from vllm import LLM

        self.options, self.prompts = options, prompts
        self.stop_token_ids = stop_token_ids(options.model)
        self.llm = LLM(
            model=options.model,
            dtype="float32",
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=32 + options.max_tokens,
            kv_cache_memory_bytes=2**29,
            enable_chunked_prefill=False,  # see vllm_backend: seeded requests cannot be prefilled in parts on a CPU
            logprobs_mode="processed_logprobs",
        )

    def turn(self, repeat: int) -> int:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                n=self.options.n,
                max_tokens=self.options.max_tokens,
                seed=repeat * 1000 + i * self.options.n,
                stop_token_ids=self.stop_token_ids,
                detokenize=False,
                logprobs=0,
            )
            for i in range(len(self.prompts))
        ]
        requests = [{"prompt_token_ids": tokens} for tokens in self.prompts]
        outputs = self.llm.generate(requests, parameters, use_tqdm=False)
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    def stop(self) -> None:
        del self.llm


def main() -> None:
    options = arguments()
    prompts = prompts_of(options.model, options.prompts)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    engines = {"sampler actor": Actor(options, prompts), "vllm.LLM": Plain(options, prompts)}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for repeat in range(-1, options.repeats):  # turn -1 warms up
        for name, engine in engines.items():
            time.sleep(SETTLE_SECONDS)
            begin = time.perf_counter()
            tokens = engine.turn(repeat + 1)
            if repeat >= 0:
                rates[name].append(tokens / (time.perf_counter() - begin))
    for engine in engines.values():
        engine.stop()
    ray.shutdown()
    ours, plain = (statistics.median(rates[name]) for name in engines)
    report = {
        "sampler_tokens_per_second": round(ours),
        "plain_vllm_tokens_per_second": round(plain),
        "ratio": round(ours / plain, 3),
        "all": {name: [round(rate) for rate in values] for name, values in rates.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
