"""The reference policy of the KL term: a frozen copy of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from learner.backends.model_directory import load_causal_lm

FILE = "reference.pt"


class ReferencePolicy:
    """A causal LM without gradients. Every rank has a whole copy, outside DeepSpeed."""

    def __init__(self, model_path: str | Path, dtype: str, device: torch.device) -> None:
        self.model = load_causal_lm(model_path, dtype).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy these weights in; the others stay. Tied parameters are copied once."""
        mine = dict(self.model.named_parameters())
        for name, tensor in weights:
            mine[name].copy_(tensor)

    def save(self, directory: Path) -> None:
        """Write the weights. Needed if the reference is refreshed, because no other file has them."""
        torch.save(self.model.state_dict(), directory / FILE)

    def load(self, directory: Path) -> None:
        """Restore from :meth:`save`; a reference that was never refreshed has no file."""
        if (directory / FILE).is_file():
            self.model.load_state_dict(torch.load(directory / FILE, weights_only=True))
