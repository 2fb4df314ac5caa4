"""How tokens are drawn. Training samples from the model's whole distribution; only an evaluation may restrict it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isclose

MIN_TEMPERATURE = 0.01  # above 0; vLLM raises lower ones to it
SAMPLING_COLUMNS = ("temperature", "top_p", "top_k", "min_p")  # of a group


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of the distribution that each token is drawn from.

    temperature: of the softmax; 0 is greedy: always the most likely token.
    top_p: keeps the most likely tokens that together have this probability; 1: off.
    top_k: keeps this many of the most likely tokens; -1: off.
    min_p: keeps tokens with at least this share of the most likely token's probability; 0: off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def restricted(self) -> bool:
        """Whether tokens are left out that the model gives a probability."""
        return self.greedy or self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    def at(self, temperature: float) -> Sampling:
        """The same parameters at another temperature; at temperature 0 (greedy) the others are off."""
        return replace(self, temperature=temperature) if temperature else Sampling(0.0)

    def samples(self, n: int) -> int:
        """How many samples of a prompt to draw: only one if greedy, because all would be equal."""
        return 1 if self.greedy else n

    def matches(self, other: Sampling) -> bool:
        """Whether both are equal, although one may have been stored in single precision."""
        floats = zip(
            (self.temperature, self.top_p, self.min_p), (other.temperature, other.top_p, other.min_p), strict=True
        )
        return self.top_k == other.top_k and all(isclose(a, b, rel_tol=1e-6) for a, b in floats)

    def __str__(self) -> str:
        if self.greedy:
            return "temperature 0 (greedy)"
        parts = [f"temperature {self.temperature:g}"]
        parts += [f"top_p {self.top_p:g}"] if self.top_p < 1 else []
        parts += [f"top_k {self.top_k}"] if self.top_k > 0 else []
        parts += [f"min_p {self.min_p:g}"] if self.min_p > 0 else []
        return ", ".join(parts)


def restricted_problem(found: Iterable[Sampling]) -> str | None:
    """Why groups with these sampling parameters cannot be trained on; None if they can."""
    restricted = next((sampling for sampling in found if sampling.restricted), None)
    if restricted is None:
        return None
    return (
        f"groups were sampled with {restricted}: the log-probabilities of a restricted distribution are not those of "
        "the model, so the gradient would be wrong; train on groups that `bonrl train` sampled"
    )
