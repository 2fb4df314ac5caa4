"""Time of the output head: log-probabilities of tokens and their gradient, in the learner's forms and in plain torch.

    python -m benchmarks.head [--vocabulary 151936] [--width 1024] [--positions 1024] [--threads 2]

`plain` is `log_softmax` of all logits in float32, differentiated by torch. The others compute them in chunks, as the
learner does; `frozen` as under adapters, `compiled` as with `learner.torch_compile`. The forms take turns, and each
time is the median. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_stages.setting import synchronize
from learner.backends.compilation import compiled_passes
from learner.chunked_head import Scoring, head_scores
from learner.losses import LogitPasses
from learner.response_logprobs import chunk_sizes

_Run = Callable[[], None]


def measure(
    *, positions: int, width: int, vocabulary: int, chunk_mib: int, device: str, dtype: str, repeats: int
) -> dict[str, Any]:
    """Seconds of forward and backward pass of every form, those of its first call, and the ratio to the plain form."""
    forms = _forms(positions, width, vocabulary, chunk_mib, torch.device(device), getattr(torch, dtype))
    first = {name: _seconds(run, device) for name, run in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, run in forms.items():
            seconds[name].append(_seconds(run, device))
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        name: {"seconds": took, "first_seconds": first[name], "over_plain": took / median[_plain_of(name)]}
        for name, took in median.items()
    }


def _plain_of(name: str) -> str:
    return "plain, frozen" if "frozen" in name else "plain"


def _forms(
    positions: int, width: int, vocabulary: int, chunk_mib: int, device: torch.device, dtype: torch.dtype
) -> dict[str, _Run]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator).to(device, dtype).requires_grad_()
    tokens = torch.randint(0, vocabulary, (positions,), generator=generator).to(device)
    weights = torch.randn(positions, generator=generator).to(device)
    chunks = -(-positions // max(1, (chunk_mib << 20) // (4 * vocabulary)))
    sizes = chunk_sizes(positions, chunks)

    def run(head: torch.nn.Linear, passes: LogitPasses | None) -> None:
        hidden.grad = head.weight.grad = None
        if passes is None:
            logits = head(hidden).float()
            logprobs = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        else:
            scoring = Scoring(tokens, sizes, lambda states, product: product(states), 1.0, False, passes)
            logprobs, _ = head_scores(head, hidden, scoring)
        (weights * logprobs).sum().backward()

    forms: dict[str, _Run] = {}
    compiled = compiled_passes()
    for suffix, trained in (("", True), (", frozen", False)):
        head = torch.nn.Linear(width, vocabulary, bias=False, device=device, dtype=dtype).requires_grad_(trained)
        for name, passes in (("plain", None), ("chunks", LogitPasses()), ("chunks, compiled", compiled)):
            forms[name + suffix] = lambda head=head, passes=passes: run(head, passes)  # type: ignore[misc]
    return forms


def _seconds(run: _Run, device: str) -> float:
    synchronize(device)
    begin = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="size of the vocabulary")
    parser.add_argument("--width", type=int, default=1024, help="hidden size")
    parser.add_argument("--positions", type=int, default=1024, help="response tokens of a micro-batch")
    parser.add_argument("--chunk-mib", type=int, default=256, help="learner.logits_chunk_mib")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = vars(parser.parse_args())
    torch.set_num_threads(options.pop("threads"))
    positions = options["positions"]
    print("| form | ms | microseconds a token | ÷ plain | first call, s |\n|---|---|---|---|---|")
    for name, row in measure(**options).items():
        took = row["seconds"]
        print(
            f"| {name} | {1e3 * took:,.1f} | {1e6 * took / positions:,.1f} | {row['over_plain']:.2f} "
            f"| {row['first_seconds']:.1f} |"
        )


if __name__ == "__main__":
    main()
