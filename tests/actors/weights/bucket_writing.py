"""Weight buckets as files, as a sampler on another node than the learner writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.weights import buckets
from actors.weights.base import NamedTensor


def write_bucket(path: Path, tensors: Sequence[NamedTensor]) -> dict[str, Any]:
    """Its manifest."""
    return buckets.write_bytes(path, *buckets.pack(tensors))
