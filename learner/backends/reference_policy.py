"""The reference policy of the KL term: a frozen copy of the model, beside the one that learns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from learner.backends.model_directory import load_causal_lm

FILE = "reference.pt"


class Reference:
    """A causal LM that is only read. Every rank holds a whole copy, outside of DeepSpeed."""

    def __init__(self, model_path: str | Path, dtype: str, device: torch.device) -> None:
        self.model = load_causal_lm(model_path, dtype).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take these weights; those not named stay. Parameters are copied, tied ones once."""
        mine = dict(self.model.named_parameters())
        for name, tensor in weights:
            mine[name].copy_(tensor)

    def save(self, directory: Path) -> None:
        """Write the weights, for a reference that is refreshed: no other file holds them."""
        torch.save(self.model.state_dict(), directory / FILE)

    def load(self, directory: Path) -> None:
        """Continue from :meth:`save`; a reference that was never refreshed left no file."""
        if (directory / FILE).is_file():
            self.model.load_state_dict(torch.load(directory / FILE, weights_only=True))
