"""Checks of `learner.lora` before a start: whether the model has the layers, and how large the adapters are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cluster.checks.model_facts import read_config
from cluster.checks.model_support import vllm_adapts
from cluster.config import RunConfig
from cluster.errors import UsageError


class AdapterSizes(NamedTuple):
    """trained: weights of the adapters. sent: weights that an update holds, of the adapters or of the model."""

    trained: int
    sent: int


def adapter_sizes(config: RunConfig) -> AdapterSizes | None:
    """The sizes for the model in `model.path`, whose weights are not read; None without `learner.lora`.

    Raises:
        UsageError: a target names no layer that can have an adapter.
    """
    if config.learner.lora is None:
        return None
    from learner.backends import lora  # late: it imports torch

    try:
        return AdapterSizes(*lora.adapter_sizes(config.model.path, config.learner.lora))
    except ValueError as error:
        raise UsageError(f"model.path = {config.model.path}: {error}") from error


def sampler_problems(config: RunConfig) -> Iterator[str]:
    """The problem of samplers that are to apply the adapters of a model for which vLLM has no LoRA."""
    architecture = (read_config(config.model.path).get("architectures") or [""])[0]
    if config.learner.sent_adapters and vllm_adapts(architecture) is False:
        yield (
            f"learner.lora.send = adapters: vLLM applies no adapters to the architecture {architecture!r} (model.path "
            f"= {config.model.path}); set learner.lora.send = merged"
        )


def dropout_problems(config: RunConfig) -> Iterator[str]:
    """The problem of dropout in a run whose samplers use none."""
    if config.learner.lora and config.learner.lora.dropout:
        yield (
            f"learner.lora.dropout = {config.learner.lora.dropout:g}: samplers use no dropout, so no importance ratio "
            "would be 1; set it to 0 (`bonrl sft` may use it)"
        )
