"""How long advantages take: python -m benchmarks.advantages

Median of repeated calls on fresh random groups, tables of binomials warm, on one core. No Ray, no model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from learner import group_advantages


def median_ms(call: Callable[[int], object], repeats: int) -> float:
    """Median milliseconds of `call(i)` for i = 1..repeats, after one call to fill caches of binomials."""
    call(0)
    seconds = []
    for i in range(1, repeats + 1):
        started = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def cases(repeats: int) -> dict[str, Callable[[int], object]]:
    """name -> a call on the i-th set of random groups."""
    rng = np.random.default_rng(0)
    rounds = range(repeats + 1)
    many = [rng.normal(size=(2, 1000, 64)) for _ in rounds]
    large = [rng.normal(size=(2, 4096)) for _ in rounds]
    binary = [(rng.random((1000, 64)) < rng.random((1000, 1))).astype(float) for _ in rounds]
    few = [rng.choice(8, size=64, p=rng.dirichlet(np.ones(8))).tolist() for _ in rounds]
    spread = [rng.integers(0, 40, size=64).tolist() for _ in rounds]
    zeros = np.zeros(64)

    def best(data: list[np.ndarray], k: int) -> Callable[[int], object]:
        return lambda i: group_advantages(data[i][0], scores=data[i][1], strategy="best_of_k", k=k)

    def vote(data: list[list[int]]) -> Callable[[int], object]:
        return lambda i: group_advantages(zeros, answers=data[i], correct=0, strategy="majority_at_k", k=16)

    return {
        "best_of_k, 1,000 groups, n = 64, k = 16": best(many, 16),
        "pass_at_k, 1,000 groups, n = 64, k = 16": lambda i: group_advantages(binary[i], strategy="pass_at_k", k=16),
        "best_of_k, 1 group, n = 4,096, k = 512": best(large, 512),
        "majority_at_k, 1 group, n = 64, k = 16, 8 answers": vote(few),
        "majority_at_k, 1 group, n = 64, k = 16, 40 answers": vote(spread),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="calls of each, all on different groups")
    repeats = parser.parse_args().repeats
    print("| advantages (loo) | median ms |\n|---|---|")
    for name, call in cases(repeats).items():
        print(f"| {name} | {median_ms(call, repeats):.2f} |")


if __name__ == "__main__":
    main()
