"""An independent oracle: a softmax policy over four answers, whose groups can all be enumerated.

What an inference strategy earns with k answers is written here once more, from its definition and by brute force.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from learner import group_advantages

LOGITS = np.array([0.3, -0.8, 1.1, 0.2])
BINARY = np.array([1.0, 0.0, 0.0, 1.0])
CONTINUOUS = np.array([0.1, -0.7, 1.3, 0.4])
SCORES = np.array([0.2, 0.9, -0.4, 0.7])  # the verifier prefers a wrong answer
TIED_SCORES = np.array([1.0, 1.0, 0.0, 0.0])
ANSWERS = np.array(["A", "B", None, "C"], dtype=object)
VOTE_WEIGHTS = np.array([0.5, 0.4, 2.0, 0.9])


def policy() -> np.ndarray:
    weights = np.exp(LOGITS - LOGITS.max())
    return weights / weights.sum()


def groups_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All groups of n answers, int[4^n, n], and their probabilities."""
    groups = np.array(list(product(range(len(LOGITS)), repeat=n)))
    return groups, policy()[groups].prod(axis=1)


def score_function() -> np.ndarray:
    """grad log pi(y) with respect to the logits, float64[y, logit]."""
    return np.eye(len(LOGITS)) - policy()


def update(advantages: np.ndarray, groups: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """E[ sum_i A_i grad log pi(y_i) ]."""
    return np.einsum("g,gi,giy->y", probabilities, advantages, score_function()[groups])


def gradient(earned, k: int) -> np.ndarray:
    """Gradient of E[earned(y_1 .. y_k)] over independent answers; `earned` takes a tuple of answers."""
    groups, probabilities = groups_of(k)
    values = np.array([earned(tuple(group)) for group in groups])
    return np.einsum("g,g,giy->y", probabilities, values, score_function()[groups])


def best(rewards: np.ndarray, scores: np.ndarray):
    def earned(ys: tuple[int, ...]) -> float:
        top = max(scores[y] for y in ys)
        return float(np.mean([rewards[y] for y in ys if scores[y] == top]))

    return earned


def any_right(rewards: np.ndarray):
    return lambda ys: float(1 - np.prod([1 - rewards[y] for y in ys]))


def weighted_pass(ys: tuple[int, ...]) -> float:
    """Sum of pass@j / j of these answers over the sum of 1 / j."""
    passes = [np.mean([BINARY[list(part)].any() for part in combinations(ys, j + 1)]) for j in range(len(ys))]
    weights = [1 / (j + 1) for j in range(len(ys))]
    return float(np.dot(weights, passes) / sum(weights))


def elected(weights: np.ndarray, right: str = "A"):
    def earned(ys: tuple[int, ...]) -> float:
        votes: dict[str, float] = {}
        for y in ys:
            if ANSWERS[y] is not None:
                votes[ANSWERS[y]] = votes.get(ANSWERS[y], 0.0) + weights[y]
        leaders = [a for a, v in votes.items() if abs(v - max(votes.values())) < 1e-9]
        return (right in leaders) / len(leaders) if leaders else 0.0

    return earned


# name -> (arguments of group_advantages as functions of the groups, what the strategy earns)
CASES = {
    "mean, continuous": (dict(strategy="mean"), CONTINUOUS, None, best(CONTINUOUS, np.zeros(4))),
    "pass@k": (dict(strategy="pass_at_k"), BINARY, None, best(BINARY, BINARY)),
    "weighted pass@k": (dict(strategy="weighted_pass_at_k"), BINARY, None, weighted_pass),
    "soft pass@k": (dict(strategy="soft_pass_at_k"), CONTINUOUS, None, any_right(CONTINUOUS)),
    "soft pass@k, binary": (dict(strategy="soft_pass_at_k"), BINARY, None, best(BINARY, BINARY)),
    "max@k, binary": (dict(strategy="max_at_k"), BINARY, None, best(BINARY, BINARY)),
    "max@k, continuous": (dict(strategy="max_at_k"), CONTINUOUS, None, best(CONTINUOUS, CONTINUOUS)),
    "best-of-k": (dict(strategy="best_of_k"), CONTINUOUS, SCORES, best(CONTINUOUS, SCORES)),
    "best-of-k, binary reward": (dict(strategy="best_of_k"), BINARY, SCORES, best(BINARY, SCORES)),
    "best-of-k, ties": (dict(strategy="best_of_k"), CONTINUOUS, TIED_SCORES, best(CONTINUOUS, TIED_SCORES)),
    "majority@k": (dict(strategy="majority_at_k"), BINARY, None, elected(np.ones(4))),
    "weighted vote": (dict(strategy="weighted_vote"), BINARY, VOTE_WEIGHTS, elected(VOTE_WEIGHTS)),
    "weighted vote, drawn": (dict(strategy="weighted_vote", subsets=2), BINARY, VOTE_WEIGHTS, elected(VOTE_WEIGHTS)),
}  # fmt: skip


def advantages_of(case: str, groups: np.ndarray, k: int, estimator: str, **more) -> np.ndarray:
    arguments, rewards, scores, _ = CASES[case]
    votes = {}
    if arguments["strategy"] in ("majority_at_k", "weighted_vote"):
        votes = {"answers": ANSWERS[groups], "correct": ["A"] * len(groups)}
    given_scores = None if scores is None else scores[groups]
    return group_advantages(
        rewards[groups], scores=given_scores, k=k, estimator=estimator, **arguments, **votes, **more
    )
