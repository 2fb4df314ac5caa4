"""Sizes that follow from a configuration by arithmetic: slots, batches, devices, memory. Nothing is read or started.

The memory figures are estimates from sizes (weights, gradients, Adam moments, key-value cache, logits) plus a measured
allowance for the runtime of each process; they are meant to catch a factor of two, not ten per cent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.queue_state import staleness_bound
from cluster.config import RunConfig
from cluster.model_facts import ModelFacts
from cluster.rules import gpus_wanted

GIB = 2**30
MIB = 2**20
# Resident memory of a process before its weights: interpreter, torch, Ray worker; vLLM adds a second process.
_SAMPLER_RUNTIME = 1.6 * GIB
_LEARNER_RUNTIME = 0.9 * GIB
_OTHER_RUNTIME = 1.5 * GIB  # driver, Ray's own processes, verifier workers and the queue
_VERIFIER_RUNTIME = 0.15 * GIB
# Arrow bytes of one response token: token id int32 and log-probability float32; doubled for the copy in flight.
_BYTES_PER_RESPONSE_TOKEN = 16


@dataclass(frozen=True)
class Derived:
    """Figures derived from one configuration. Memory in bytes; None where the model's size is not known.

    Attributes:
        slots: B = (S + 1) x P groups that can be in flight.
        staleness_bound: optimiser steps by which a trained group can be behind, at most.
        samples_per_step, max_tokens_per_step: of one optimiser step; tokens with prompts counted per sample.
        micro_batches_per_rank: at most, when every sequence has full length.
        sampler_memory, learner_memory: of one sampler and one rank, on its device (all its GPUs, or the host).
        host_memory: of everything on a machine that runs all of it without GPUs.
        group_memory: groups in flight in the object store.
    """

    slots: int
    staleness_bound: int
    samples_per_step: int
    max_tokens_per_step: int
    micro_batches_per_rank: int
    gpus: int
    cpus: int
    parameters: int | None
    sampler_memory: float | None
    learner_memory: float | None
    host_memory: float | None
    group_memory: float


def derive(config: RunConfig, model: ModelFacts | None) -> Derived:
    """Compute every derived figure; `model` is None where the directory is not on this machine."""
    rollout, learner, actors = config.rollout, config.learner, config.actors
    samples = rollout.prompts_per_step * rollout.n
    slots = (config.queue.staleness + 1) * rollout.prompts_per_step
    per_micro_batch = max(1, learner.tokens_per_micro_batch // rollout.max_sequence_tokens)
    parameters = model.parameters if model else _hinted_parameters(config)
    sampler = _sampler_memory(config, parameters)
    rank = _learner_memory(config, parameters, model)
    groups = float(slots * rollout.n * rollout.max_response_tokens * _BYTES_PER_RESPONSE_TOKEN)
    host = None
    if sampler is not None and rank is not None and not gpus_wanted(config):
        host = (
            actors.sampler_range.max * sampler
            + learner.ranks * rank
            + actors.verifier_range.max * _VERIFIER_RUNTIME
            + _OTHER_RUNTIME
            + groups
        )
    return Derived(
        slots=slots,
        staleness_bound=staleness_bound(config.queue.staleness, config.queue.overtake),
        samples_per_step=samples,
        max_tokens_per_step=samples * rollout.max_sequence_tokens,
        micro_batches_per_rank=math.ceil(math.ceil(samples / learner.ranks) / per_micro_batch),
        gpus=gpus_wanted(config),
        cpus=actors.sampler_range.max + actors.verifier_range.max + learner.ranks,
        parameters=parameters,
        sampler_memory=sampler,
        learner_memory=rank,
        host_memory=host,
        group_memory=groups,
    )


def _hinted_parameters(config: RunConfig) -> int | None:
    hint = config.model.parameters_billions
    return None if hint is None else round(hint * 1e9)


def _sampler_memory(config: RunConfig, parameters: int | None) -> float | None:
    """One sampler: the share of its GPUs that vLLM may take, or weights, cache and runtime on the host."""
    sampler = config.sampler
    if sampler.gpus:
        return sampler.gpus * sampler.gpu_memory_utilization * config.cluster.gpu_memory_gib * GIB
    if parameters is None:
        return None
    # vLLM packs CPU weights for its kernels beside the loaded ones.
    return 2 * parameters * weight_bytes(config) + sampler.kv_cache_gib * GIB + _SAMPLER_RUNTIME


def _learner_memory(config: RunConfig, parameters: int | None, model: ModelFacts | None) -> float | None:
    """One rank: weights, gradients, Adam's two moments (and float32 copies beside bfloat16), sharded by ZeRO stage."""
    if parameters is None:
        return None
    learner = config.learner
    half = config.model.dtype == "bfloat16"
    weights, gradients, optimiser = weight_bytes(config), 4, (12 if half else 8)
    shard = learner.ranks
    per_parameter = (
        weights / (shard if learner.zero_stage >= 3 else 1)
        + gradients / (shard if learner.zero_stage >= 2 else 1)
        + optimiser / (shard if learner.zero_stage >= 1 else 1)
    )
    runtime = _LEARNER_RUNTIME if not learner.gpus_per_rank else GIB
    return parameters * per_parameter + _activation_memory(config, model) + runtime


def _activation_memory(config: RunConfig, model: ModelFacts | None) -> float:
    """Of one micro-batch: what each layer keeps for the backward pass, and the float32 logits with their gradient."""
    if model is None:
        return 0.0
    tokens = config.learner.tokens_per_micro_batch
    kept_per_layer = 2 if config.learner.activation_checkpointing else 16  # in units of tokens x hidden
    layers = model.layers * model.hidden * kept_per_layer * weight_bytes(config)
    share = (config.rollout.max_response_tokens + 1) / config.rollout.max_sequence_tokens
    return tokens * (layers + 3 * 4 * model.vocabulary * share)


def weight_bytes(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def size_text(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
