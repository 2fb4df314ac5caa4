"""The order in which prompts are trained: a pure function from a position to (epoch, prompt).

The order is a function and not an iterator, so the data cursor of a run is one integer, and a test can verify after any
crash that every prompt of an epoch is trained exactly once (docs/promises.md, 3).
"""

from __future__ import annotations

import numpy as np


class PromptStream:
    """An endless, seeded stream over `size` prompts, reshuffled in every epoch.

    Args:
        size: number of training prompts, at least 1.
        seed: the run's seed; the permutation of epoch e depends on (seed, e) alone.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError("the training split holds no prompts: check the task's settings")
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def locate(self, sequence: int) -> tuple[int, int]:
        """(epoch, prompt index) of position `sequence` ≥ 0."""
        epoch, offset = divmod(sequence, self.size)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            self._epoch = epoch
        return epoch, int(self._order[offset])


def sampling_seed(run_seed: int, sequence: int, *, stream: int = 0) -> int:
    """A 31-bit seed for one group's samples, well separated between groups.

    vLLM gives sample i of a request the seed `seed + i`, so consecutive seeds would share samples between groups.

    Args:
        run_seed: the run's seed.
        sequence: position in the prompt stream, or index of the evaluation prompt.
        stream: 0 for training; evaluation uses another number, so that its samples differ from training's.
    """
    return int(np.random.SeedSequence([run_seed, stream, sequence]).generate_state(1, np.uint32)[0] >> 1)
