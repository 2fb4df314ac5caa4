"""What the stages share: device, sizes, random models, and the peak of the card's arithmetic."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 2**30

# Dense bfloat16 FLOP/s of the data sheets (without sparsity), by a part of the card's name; the first match counts.
PEAK_FLOPS = (
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("4090", 165e12),
    ("A10", 125e12),
)

SHAPES: dict[str, dict[str, Any]] = {  # of Qwen3Config; the weights are random
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=512),
    "0.1b": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        head_dim=64, vocab_size=49_152,
    ),
    "0.6b": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16),
    "4b": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32),
    "8b": dict(
        hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32,
        tie_word_embeddings=False,
    ),
}  # fmt: skip
_DEFAULTS = dict(
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    tie_word_embeddings=True,
    max_position_embeddings=40_960,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,  # every sample has full length
)
_TINY = dict(num_key_value_heads=2, head_dim=32, max_position_embeddings=512)


class Skip(Exception):
    """The stage cannot be measured here; the message is the reason."""


@dataclass(frozen=True)
class Setting:
    """Arguments of a stage.

    device: "cuda" or "cpu". tiny: the smallest sizes, to see that the code runs. scratch: for models and runs.
    model, data: of the training stages; None: not given. limit_s: seconds after which the stage is killed.
    """

    device: str
    tiny: bool
    scratch: Path
    model: Path | None = None
    data: Path | None = None
    limit_s: float = 500.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    def left(self) -> float:
        """Seconds until the stage is killed."""
        return self.limit_s - self.elapsed()

    @property
    def dtype(self) -> str:
        return "float32" if self.device == "cpu" else "bfloat16"

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def random_model(self, shape: str) -> Path:
        """A directory with a random model of this shape, made once."""
        shape = "tiny" if self.tiny else shape
        directory = self.scratch / f"random-{shape}-{self.dtype}"
        if (directory / "config.json").is_file():
            return directory
        import torch
        from transformers import Qwen3Config, Qwen3ForCausalLM

        partial = directory.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        config = Qwen3Config(**(_DEFAULTS | (_TINY if self.tiny else {}) | SHAPES[shape]))
        torch.manual_seed(0)
        with torch.device(self.device):
            model = Qwen3ForCausalLM(config).to(getattr(torch, self.dtype))
        model.save_pretrained(partial)
        partial.rename(directory)
        del model
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return directory

    def peak_flops(self) -> float | None:
        """bfloat16 FLOP/s of the card by its data sheet; None: unknown."""
        import torch

        if self.device == "cpu":
            return None
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in PEAK_FLOPS if part in name), None)


def synchronize(device: str) -> None:
    """Wait for the card's queued work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
