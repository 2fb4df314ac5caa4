"""Memory of one sampler, and how many sequences its key-value cache holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.card_memory import utilization
from cluster.checks.memory.card import card_bytes
from cluster.checks.memory.rank import reserved_memory
from cluster.checks.memory.shape import GIB, Shape, sequence_tokens, weight_bytes
from cluster.config import RunConfig

# Resident before the weights: interpreter, torch and Ray worker, and the same with vLLM in the process of its engine.
_SAMPLER_RUNTIME = 1.6 * GIB
# Of a CPU engine. In a layer: residual, its norm, q, k, v and the output of attention; gate, up and their product.
_BATCH_TOKENS = 4096  # max_num_batched_tokens in actors/vllm_backend/arguments.py
_ALIVE_IN_ATTENTION, _ALIVE_IN_FEED_FORWARD = 6, 3
_LOGIT_COPIES = 4  # in float32: logits, log-probabilities, probabilities and the noise of sampling
_VLLM_WORKSPACE = 2 * GIB  # on each GPU: activations of a full batch, CUDA graphs


@dataclass(frozen=True)
class KvCache:
    """Key-value cache of a sampler: sequences of full length that it holds, and sequences that are decoded at once."""

    sequences: int
    wanted: int


def sampler_memory_of(config: RunConfig, shape: Shape | None) -> float | None:
    """Memory of one sampler: the share of its GPUs that vLLM may take, or weights, cache and runtime on the host."""
    sampler = config.sampler
    if sampler.gpus:
        card = card_bytes(config)
        return sampler.gpus * card * utilization(sampler, card, reserved_memory(config, shape))
    if shape is None:
        return None
    # vLLM packs CPU weights for its kernels next to the loaded ones.
    weights = 2 * shape.parameters * weight_bytes(config)
    return weights + sampler.kv_cache_gib * GIB + _batch_memory(config, shape) + _SAMPLER_RUNTIME


def _batch_memory(config: RunConfig, shape: Shape) -> float:
    """What a CPU engine computes with: one layer of the largest batch of prompts, and the logits of all sequences."""
    tokens, weight = max(_BATCH_TOKENS, sequence_tokens(config)), weight_bytes(config)
    layer = tokens * (_ALIVE_IN_ATTENTION * shape.hidden + _ALIVE_IN_FEED_FORWARD * shape.inner) * weight
    return float(layer + config.sampler.max_num_seqs * shape.vocabulary * (weight + 4 * _LOGIT_COPIES))


def sampler_host_memory(config: RunConfig, shape: Shape) -> float:
    """Host memory of one sampler, also of one on GPUs, where vLLM has a process for each."""
    gpus = config.sampler.gpus
    return (1 + gpus) * _SAMPLER_RUNTIME if gpus else sampler_memory_of(config, shape) or 0.0


def kv_cache_of(config: RunConfig, shape: Shape, slots: int) -> KvCache:
    sampler, rollout = config.sampler, config.rollout
    if sampler.gpus:
        room = (sampler_memory_of(config, shape) or 0.0) - shape.parameters * weight_bytes(config)
        room -= sampler.gpus * _VLLM_WORKSPACE
    else:
        room = sampler.kv_cache_gib * GIB
    sequence = sequence_tokens(config) * shape.kv_values_per_token * weight_bytes(config)
    in_flight = min(slots * rollout.n, rollout.max_samples_in_flight or math.inf)
    wanted = min(sampler.max_num_seqs, math.ceil(in_flight / config.actors.sampler_range.min))
    return KvCache(max(0, int(room // sequence)), wanted)
