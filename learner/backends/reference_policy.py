"""The reference policy of the KL term: a frozen copy of the model."""

from __future__ import annotations

from pathlib import Path

import torch

from learner.backends.base import LearnerBackend

FILE = "reference.pt"


class ReferencePolicy:
    """A causal LM without gradients, sharded by the back-end as the trained one is. All methods are collective.

    Weights are gathered one at a time, so that no rank holds the whole model.
    """

    def __init__(self, backend: LearnerBackend) -> None:
        self._backend = backend
        self.model = backend.load_frozen()

    @torch.no_grad()
    def refresh(self) -> None:
        """The reference becomes the current policy."""
        mine = dict(self.model.named_parameters())
        for name, source in self._backend.parameters:
            with self._backend.gathered([source]), self._backend.gathered([mine[name]], modify=True):
                mine[name].copy_(source)

    def save(self, directory: Path, rank: int) -> None:
        """Rank 0 writes the weights. Needed if the reference is refreshed, because no other file has them."""
        weights = {}
        for name, parameter in self.model.named_parameters():
            with self._backend.gathered([parameter]):
                if rank == 0:
                    weights[name] = parameter.detach().to("cpu", copy=True)
        if rank == 0:
            torch.save(weights, directory / FILE)

    @torch.no_grad()
    def load(self, directory: Path) -> None:
        """Restore from :meth:`save`; a reference that was never refreshed has no file."""
        if not (directory / FILE).is_file():
            return
        weights = torch.load(directory / FILE, weights_only=True, mmap=True)
        for name, parameter in self.model.named_parameters():
            with self._backend.gathered([parameter], modify=True):
                parameter.copy_(weights[name])
