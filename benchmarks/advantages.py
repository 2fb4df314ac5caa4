"""How long advantages take: python -m benchmarks.advantages

Median processor time of repeated calls on fresh random groups, on one core. Tables of binomials are warm but where a
row says "new k". No Ray, no model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from learner import group_advantages, strategy_value
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
    fresh = 600 + 400 * ESTIMATORS.index(estimator)  # of these k no binomial is in the tables yet
    many = [rng.normal(size=(2, 1000, 64)) for _ in rounds]
    large = [rng.normal(size=(2, 4096)) for _ in rounds]
    binary = [(rng.random((1000, 64)) < rng.random((1000, 1))).astype(float) for _ in rounds]
    few = [rng.choice(8, size=64, p=rng.dirichlet(np.ones(8))).tolist() for _ in rounds]
    spread = [rng.integers(0, 40, size=64).tolist() for _ in rounds]

    def best(data: list[np.ndarray], ks: Sequence[int]) -> Callable[[int], object]:
        return lambda i: group_advantages(
            data[i][0], scores=data[i][1], strategy="best_of_k", k=ks[i], estimator=estimator
        )

    def reweighed(n: int, k: int, levels: int | None) -> Callable[[int], object]:
        """One group off policy; `levels` different scores, so that they tie."""
        rewards = [rng.normal(size=n) for _ in rounds]
        scores = [rng.normal(size=n) if levels is None else rng.integers(levels, size=n) for _ in rounds]
        ratios = [np.exp(rng.normal(scale=0.2, size=n)) for _ in rounds]
        return lambda i: group_advantages(
            rewards[i], scores=scores[i], ratios=ratios[i], strategy="best_of_k", k=k, estimator=estimator
        )

    def vote(data: list[list[int]], k: int = 16) -> Callable[[int], object]:
        zeros = np.zeros(len(data[0]))

        def call(i: int) -> object:
            for cached in (majority.vote_value, majority.vote_leave_one_out):  # else groups with equal votes count once
                cached.cache_clear()
            return group_advantages(
                zeros, answers=data[i], correct=0, strategy="majority_at_k", k=k, estimator=estimator
            )

        return call

    return {
        "best_of_k, 1,000 groups, n = 64, k = 16": best(many, [16] * len(rounds)),
        "pass_at_k, 1,000 groups, n = 64, k = 16": lambda i: group_advantages(
            binary[i], strategy="pass_at_k", k=16, estimator=estimator
        ),
        "best_of_k, 1 group, n = 4,096, k = 512": best(large, [512] * len(rounds)),
        "best_of_k, 1 group, n = 4,096, a new k at each call": best(large, range(fresh, fresh + len(rounds))),
        "majority_at_k, 1 group, n = 64, k = 16, 8 answers": vote(few),
        "majority_at_k, 1 group, n = 64, k = 16, 40 answers": vote(spread),
        "majority_at_k, 1 group, n = 64, k = 16, 10 answers with 1..10 votes": vote([staircase(rng) for _ in rounds]),
        "majority_at_k, 1 group, n = 256, k = 64, 40 answers": vote(
            [rng.integers(0, 40, size=256).tolist() for _ in rounds], 64
        ),
        "majority_at_k, 1 group, n = 1,024, k = 256, 40 answers": vote(
            [rng.integers(0, 40, size=1024).tolist() for _ in rounds], 256
        ),
        "off policy: best_of_k, 1 group, n = 16, k = 8": reweighed(16, 8, None),
        "off policy: best_of_k, 1 group, n = 64, k = 16": reweighed(64, 16, None),
        "off policy: best_of_k, 1 group, n = 64, k = 16, 4 different scores": reweighed(64, 16, 4),
        "off policy: best_of_k, 1 group, n = 256, k = 32": reweighed(256, 32, None),
        "off policy: best_of_k, 1 group, n = 256, k = 32, 4 different scores": reweighed(256, 32, 4),
    }


def value_ms(repeats: int) -> float:
    """Median milliseconds of the value of one large vote."""
    rng = np.random.default_rng(1)
    answers = [rng.integers(0, 40, size=1024).tolist() for _ in range(repeats + 1)]
    votes = dict(correct=0, strategy="majority_at_k", k=256)
    return median_ms(lambda i: strategy_value(np.zeros(1024), answers=answers[i], **votes), repeats)


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
    print(f"value of majority_at_k, 1 group, n = 1,024, k = 256, 40 answers: {value_ms(repeats):.2f} ms")


if __name__ == "__main__":
    main()
