"""The engine with `learner.torch_compile`, in processes of their own (tests/learner/ranks.py).

The graphs are run by other back-ends of torch.compile than inductor, whose code takes minutes to generate on a CPU:
`aot_eager` differentiates them like inductor, `eager` only traces them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from learner.engine import Engine
from tests.learner.engine_checks import check_gradient, check_scores, check_stream, step_with_gradient
from tests.learner.engine_setup import make_engine, make_sequences, settings
from tests.learner.plain_torch import LORA, TERMS, adapter_gradient, reference_gradient


def compiled(rank: int, world_size: int, port: int, directory: Path) -> None:
    """Both cases in one process per rank: starting one costs as much as a case."""
    full(rank, world_size, port, directory)
    adapted(rank, world_size, port, directory).close()


def full(rank: int, world_size: int, port: int, directory: Path) -> None:
    """ZeRO stage 3, packed rows, activation checkpointing: gradient, scores and weights equal plain torch.

    An engine that is not compiled continues from the checkpoint.
    """
    path, sequences, temperature = directory / "untied", make_sequences(), 0.8
    plain = settings(zero_stage=3, packing=True, activation_checkpointing=True)
    expected = reference_gradient(path, sequences, 7.0, temperature)
    with compiled_layers("aot_eager"):
        learner = plain.model_copy(update={"torch_compile": True})
        engine = make_engine(path, rank, world_size, port, learner, temperature=temperature)
        check_scores(engine, path, sequences, temperature)
        check_gradient(engine, sequences, 7.0, expected)
        check_stream(engine, directory / "compiled", sequences, temperature)
        checkpoint = directory / "compiled-checkpoint"
        engine.save(checkpoint, {})
        trained = engine.score(sequences)
    again = make_engine(path, rank, world_size, port, plain, temperature=temperature)
    again.load(checkpoint)
    for found, uncompiled in zip(trained, again.score(sequences), strict=True):
        np.testing.assert_allclose(found, uncompiled, atol=3e-5)


def adapted(rank: int, world_size: int, port: int, directory: Path) -> Engine:
    """ZeRO stage 0 with adapters, switched off for the reference, in padded rows: the case with the most graphs."""
    path, sequences, temperature = directory / "untied", make_sequences(), 0.8
    learner = settings(zero_stage=0, lora=LORA, torch_compile=True)
    loss = TERMS.model_copy(update={"kl_refresh_every": 0})
    with compiled_layers("eager"):
        engine = make_engine(path, rank, world_size, port, learner, loss=loss, reference=True, temperature=temperature)
        engine.train_step(sequences, 7.0, step=0)
        moved = directory / "compiled-adapters"
        engine.export_adapters(moved / "adapter")
        step_with_gradient(engine, sequences, 7.0, adapter_gradient(path, moved, sequences, temperature))
    return engine


@contextmanager
def compiled_layers(backend: str) -> Iterator[None]:
    """Inside the block layers are compiled by `backend`; at its end, each must have been traced in one piece, and none
    given up.
    """
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    with patch.object(torch, "compile", partial(torch.compile, backend=backend)):
        yield
    frames, graphs = counters["frames"], counters["stats"]["unique_graphs"]
    print(f"graphs {graphs}, frames {dict(frames)}")
    assert not counters["graph_break"]
    assert frames["total"] == frames["ok"] == graphs >= 2, "a layer ran without its graph"
