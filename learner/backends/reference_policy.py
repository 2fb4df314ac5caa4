"""The reference policy of the KL term: a frozen copy of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from learner.backends.model_directory import load_causal_lm
from learner.response_logprobs import return_logprobs

FILE = "reference.pt"


class ReferencePolicy:
    """A causal LM without gradients. Every rank has a whole copy, outside DeepSpeed.

    Args:
        chunk_bytes: as in `learner.response_logprobs.return_logprobs`.
        attention: attention implementation of the policy.
    """

    def __init__(
        self, model_path: str | Path, dtype: str, device: torch.device, chunk_bytes: int | None, attention: str
    ) -> None:
        self.model = load_causal_lm(model_path, dtype).to(device).eval().requires_grad_(False)
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)
        return_logprobs(self.model, chunk_bytes)

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
