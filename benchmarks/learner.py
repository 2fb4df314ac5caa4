"""Learner tokens/s against a plain PyTorch loop over the same micro-batches, in one run.

    python -m benchmarks.learner --model models/countdown-base

Both sides train the same sequences with the same loss, AdamW and clipping; they alternate, and the medians of the
repeats are compared. The plain loop gets its micro-batches ready-made as tensors; the engine plans, pads and
measures its diagnostics inside the timed step. A second engine packs its micro-batches (`learner.packing`), and with
--bfloat16 a third one trains in that format. Prints one Markdown table row.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from functools import partial

import numpy as np
import torch

from benchmarks.markdown import markdown
from learner.backends.model_directory import load_causal_lm
from learner.batching import MicroBatch, TrainingSequence, make_micro_batches, padding_share
from learner.engine import Engine
from learner.settings import LearnerSettings, LossSettings

NORMALISER = 1000.0


def make_sequences(count: int, prompt: int, response: int, vocabulary: int, seed: int = 0) -> list[TrainingSequence]:
    """Sequences with prompts of `prompt` +- 25 % tokens and responses of 1/2..1 times `response` tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        p = int(rng.integers(max(1, prompt * 3 // 4), prompt * 5 // 4 + 1))
        r = int(rng.integers(max(1, response // 2), response + 1))
        made.append(
            TrainingSequence(
                prompt_tokens=rng.integers(0, vocabulary, p).astype(np.int32),
                response_tokens=rng.integers(0, vocabulary, r).astype(np.int32),
                behaviour_logprobs=np.full(r, -np.log(vocabulary), dtype=np.float32),
                advantage=float(rng.normal()),
            )
        )
    return made


def plain_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict]) -> None:
    """One optimizer step as a reader of the PyTorch tutorial would write it."""
    for b in batches:
        output = model(
            input_ids=b["tokens"],
            attention_mask=b["mask"],
            position_ids=b["positions"],
            logits_to_keep=b["width"] + 1,
            use_cache=False,
        )
        logprobs = torch.log_softmax(output.logits[:, :-1].float(), -1)
        logprobs = logprobs.gather(-1, b["tokens"][:, -b["width"] :, None])[..., 0]
        ratio = (logprobs - b["behaviour"]).exp()
        gain = torch.minimum(ratio * b["advantage"], ratio.clamp(0.8, 1.2) * b["advantage"])
        (-(gain * b["response_mask"]).sum() / NORMALISER).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def tensors(batch: MicroBatch) -> dict:
    return {
        "tokens": torch.from_numpy(batch.tokens_BT),
        "mask": torch.from_numpy(batch.attention_mask_BT),
        "positions": torch.from_numpy(batch.positions_BT),
        "width": batch.response_width,
        "behaviour": torch.from_numpy(batch.behaviour_logprobs_BR),
        "advantage": torch.from_numpy(batch.advantage_B)[:, None],
        "response_mask": torch.from_numpy(batch.response_mask_BR).float(),
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/countdown-base", help="local Hugging Face model directory")
    parser.add_argument("--sequences", type=int, default=256, help="sequences per optimizer step")
    parser.add_argument("--prompt", type=int, default=24, help="prompt tokens")
    parser.add_argument("--response", type=int, default=24, help="longest response, tokens")
    parser.add_argument("--budget", type=int, default=4096, help="learner.tokens_per_micro_batch")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each side, after one untimed")
    parser.add_argument("--bfloat16", action="store_true", help="also measure model.dtype = bfloat16")
    arguments = parser.parse_args()

    learner = LearnerSettings(tokens_per_micro_batch=arguments.budget, threads=arguments.threads)
    packing = learner.model_copy(update={"packing": True})
    port = free_port()
    forms: dict[str, tuple[str, LearnerSettings]] = {"engine": ("float32", learner), "packed": ("float32", packing)}
    if arguments.bfloat16:
        forms["bfloat16"] = "bfloat16", learner
    engines = {
        name: Engine(arguments.model, dtype=dtype, learner=settings, loss=LossSettings(), master_port=port)
        for name, (dtype, settings) in forms.items()
    }
    model = load_causal_lm(arguments.model, "float32").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    sequences = make_sequences(arguments.sequences, arguments.prompt, arguments.response, model.config.vocab_size)
    batches = make_micro_batches(sequences, arguments.budget, 0, 1, engines["engine"].pad_token)
    prepared = [tensors(b) for b in batches]
    tokens = sum(len(s) for s in sequences)

    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *engines)}
    for repeat in range(arguments.repeats + 1):
        steps = {name: partial(engine.train_step, sequences, NORMALISER, repeat) for name, engine in engines.items()}
        for name, step in {"plain": partial(plain_step, model, optimizer, prepared), **steps}.items():
            started = time.perf_counter()
            step()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    rate = {side: tokens / statistics.median(values) for side, values in seconds.items()}
    parameters = sum(p.numel() for p in model.parameters())
    shown = {
        "parameters": f"{parameters / 1e6:.1f} M",
        "micro-batches": f"{len(batches)}",
        "padding": f"{padding_share(batches):.1%}",
        "engine tokens/s": f"{rate['engine']:,.0f}",
        "plain PyTorch tokens/s": f"{rate['plain']:,.0f}",
        "ratio": f"{rate['engine'] / rate['plain']:.2f}",
        **{f"{name} ÷ engine": f"{rate[name] / rate['engine']:.3g}" for name in list(engines)[1:]},
    }
    print(markdown([list(shown), list(shown.values())]))
    engines["engine"].close()


if __name__ == "__main__":
    main()
