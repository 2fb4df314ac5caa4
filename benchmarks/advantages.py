"""How long advantages take: python -m benchmarks.advantages

Median processor time of repeated calls on fresh random groups, tables of binomials warm, on one core. No Ray, no model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from learner import group_advantages
from learner.strategies import majority

ESTIMATORS = ("loo", "loo1")


def median_ms(call: Callable[[int], object], repeats: int) -> float:
    """Median milliseconds of `call(i)` for i = 1..repeats, after one call to fill caches of binomials."""
    call(0)
    seconds = []
    for i in range(1, repeats + 1):
        started = time.process_time()  # of this process, whatever else the machine does
        call(i)
        seconds.append(time.process_time() - started)
    return 1e3 * float(np.median(seconds))


def cases(repeats: int, estimator: str) -> dict[str, Callable[[int], object]]:
    """name -> a call on the i-th set of random groups."""
    rng = np.random.default_rng(0)
    rounds = range(repeats + 1)
    many = [rng.normal(size=(2, 1000, 64)) for _ in rounds]
    large = [rng.normal(size=(2, 4096)) for _ in rounds]
    binary = [(rng.random((1000, 64)) < rng.random((1000, 1))).astype(float) for _ in rounds]
    few = [rng.choice(8, size=64, p=rng.dirichlet(np.ones(8))).tolist() for _ in rounds]
    spread = [rng.integers(0, 40, size=64).tolist() for _ in rounds]

    def best(data: list[np.ndarray], k: int) -> Callable[[int], object]:
        return lambda i: group_advantages(data[i][0], scores=data[i][1], strategy="best_of_k", k=k, estimator=estimator)

    def vote(data: list[list[int]], k: int = 16) -> Callable[[int], object]:
        zeros = np.zeros(len(data[0]))

        def call(i: int) -> object:
            for cached in (majority.vote_value, majority.vote_without):  # groups with equal votes would be counted once
                cached.cache_clear()
            return group_advantages(
                zeros, answers=data[i], correct=0, strategy="majority_at_k", k=k, estimator=estimator
            )

        return call

    return {
        "best_of_k, 1,000 groups, n = 64, k = 16": best(many, 16),
        "pass_at_k, 1,000 groups, n = 64, k = 16": lambda i: group_advantages(
            binary[i], strategy="pass_at_k", k=16, estimator=estimator
        ),
        "best_of_k, 1 group, n = 4,096, k = 512": best(large, 512),
        "majority_at_k, 1 group, n = 64, k = 16, 8 answers": vote(few),
        "majority_at_k, 1 group, n = 64, k = 16, 40 answers": vote(spread),
        "majority_at_k, 1 group, n = 64, k = 16, 10 answers with 1..10 votes": vote([staircase(rng) for _ in rounds]),
        "majority_at_k, 1 group, n = 256, k = 64, 40 answers": vote(
            [rng.integers(0, 40, size=256).tolist() for _ in rounds], 64
        ),
        "majority_at_k, 1 group, n = 1,024, k = 256, 40 answers": vote(
            [rng.integers(0, 40, size=1024).tolist() for _ in rounds], 256
        ),
    }


def staircase(rng: np.random.Generator) -> list[int]:
    """64 answers: nine that are unparsable or right in a random ratio, and wrong ones with 1, 2 .. 10 votes.

    Every wrong answer has a size of its own, so that none shares its leave-one-out value with another.
    """
    right = int(rng.integers(4, 10))
    return [0] * right + [None] * (9 - right) + [label for label in range(1, 11) for _ in range(label)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="calls of each, all on different groups")
    repeats = parser.parse_args().repeats
    print("| median ms of advantages | loo | loo1 |\n|---|---|---|")
    both = [cases(repeats, estimator) for estimator in ESTIMATORS]
    for name in both[0]:
        print(f"| {name} | " + " | ".join(f"{median_ms(calls[name], repeats):.2f}" for calls in both) + " |")


if __name__ == "__main__":
    main()
