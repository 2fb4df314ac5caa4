"""What a rank holds of a model while the DeepSpeed back-end partitions it under ZeRO-3, and afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def partitioned_one_at_a_time(rank: int) -> Iterator[None]:
    """The block loads the model and a reference; no rank but the first may have two whole parameters meanwhile."""
    from learner.backends import deepspeed_backend

    allocate, partition = deepspeed_backend.allocate, deepspeed_backend._partition
    parameters: list[torch.nn.Parameter] = []
    held: list[int] = []
    models = []

    def watched_memory(some: Iterable[torch.nn.Parameter], device: torch.device) -> None:
        allocate(some, device)
        held.append(sum(p.untyped_storage().nbytes() for p in parameters))

    def watched_partition(deepspeed: Any, model: torch.nn.Module, *rest: Any) -> None:
        parameters[:] = model.parameters()
        size, largest = sum(p.nbytes for p in parameters), max(p.nbytes for p in parameters)
        held.clear()
        partition(deepspeed, model, *rest)
        assert len(held) == len(parameters)
        if rank == 0:
            assert held[0] == size and held == sorted(held, reverse=True), "rank 0 reads all, and gives up one by one"
        else:
            assert max(held) < largest + 1000 < size
        assert not any(p.untyped_storage().nbytes() for p in parameters)
        models.append(model)

    deepspeed_backend.allocate, deepspeed_backend._partition = watched_memory, watched_partition
    try:
        yield
    finally:
        deepspeed_backend.allocate, deepspeed_backend._partition = allocate, partition
    assert len(models) == 2


def check_partitioned(model: torch.nn.Module, ranks: int) -> None:
    """Each rank has its part of every parameter; DeepSpeed may keep those below 100,000 elements whole."""
    parameters: list[Any] = list(model.parameters())
    assert all(p.ds_tensor.numel() == -(-p.ds_numel // ranks) for p in parameters)
    large = [p for p in parameters if p.ds_numel > 100_000]
    assert large and all(p.numel() == 0 for p in large)
