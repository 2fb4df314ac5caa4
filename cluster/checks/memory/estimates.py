"""Sizes and times that follow from a configuration by arithmetic. Only the memory of a GPU is read (card.py).

The figures are meant to catch a factor of two, not ten per cent. docs/memory.md has each formula, a measured run, and
two large layouts computed by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.queue.state import staleness_bound
from cluster.checks.adapters import AdapterSizes
from cluster.checks.memory.rank import (
    LEARNER_RUNTIME,
    activation_memory,
    moved_host_memory,
    rank_memory,
    reference_memory,
)
from cluster.checks.memory.sampler import KvCache, kv_cache_of, sampler_memory_of
from cluster.checks.memory.shape import (
    GIB,
    Shape,
    has_learner,
    has_samplers,
    keeps_reference,
    shape_of,
    weight_bytes,
)
from cluster.checks.model_facts import ModelFacts
from cluster.config import RunConfig
from cluster.config.gpu_rules import gpus_wanted

_GPUS_PER_NODE = 8  # assumed on a cluster whose nodes are not described (cluster.node_types)

_OTHER_RUNTIME = 1.5 * GIB  # driver, Ray's own processes and the queue
VERIFIER_RUNTIME = 0.33 * GIB
# Arrow bytes of one response token: token id int32 and log-probability float32; doubled for the copy in flight.
_BYTES_PER_RESPONSE_TOKEN = 16

# Bytes per second of the steps of a weight update. Assumptions, printed with the figure.
COPY_SPEED = 4e9  # memory to memory on one thread
DEVICE_SPEED = 6e9  # pageable memory to or from a GPU
NETWORK_SPEED = 3e9  # 25 Gbit/s
_SYNC_FIXED_SECONDS = 0.06  # measured with the shipped model


@dataclass(frozen=True)
class Transit:
    """Bytes of the published weights while they are on their way, on the node that holds most of each."""

    shared_memory: float
    object_store: float
    seconds: float


@dataclass(frozen=True)
class Derived:
    """Figures derived from one configuration. Memory in bytes; None where the model's size is not known.

    Without samplers (imitation) or without a learner (evaluation), what only they have is None.

    Attributes:
        slots: B = (S + 1) x P groups that can be in flight.
        staleness_bound: optimizer steps by which a trained group can be behind, at most.
        samples_per_step, max_tokens_per_step: of one optimizer step; tokens with prompts counted per sample.
        micro_batches_per_rank: at most, when every sequence has full length.
        shape: of the model, read or assumed.
        sampler_memory, learner_memory: of one sampler and one rank, on its device (all its GPUs, or the host).
        activation_memory, reference_memory: parts of learner_memory.
        ranks_per_node: learner ranks that load the model on one node.
        loading_memory: host memory of those ranks while they load, with the pages of the files.
        moved_memory: host memory of those ranks with what `learner.offload` or `learner.sleep` puts there; else 0.
        host_memory: of everything on a machine that runs all of it without GPUs.
        group_memory: groups in flight in the object store.
        transit, kv_cache: see these classes.
    """

    slots: int
    staleness_bound: int
    samples_per_step: int
    max_tokens_per_step: int
    micro_batches_per_rank: int
    gpus: int
    cpus: int
    shape: Shape | None
    sampler_memory: float | None
    learner_memory: float | None
    activation_memory: float | None
    reference_memory: float | None
    ranks_per_node: int
    loading_memory: float | None
    moved_memory: float | None
    host_memory: float | None
    group_memory: float
    transit: Transit | None
    kv_cache: KvCache | None

    @property
    def parameters(self) -> int | None:
        return None if self.shape is None else self.shape.parameters


def derive(config: RunConfig, model: ModelFacts | None, adapters: AdapterSizes | None = None) -> Derived:
    """Compute every derived figure; `model` is None where the directory is not on this machine.

    `adapters`: those of `learner.lora`; None to assume them from the model's shape.
    """
    rollout, learner, actors = config.rollout, config.learner, config.actors
    samples = rollout.prompts_per_step * rollout.n
    slots = (config.queue.staleness + 1) * rollout.prompts_per_step
    per_micro_batch = max(1, learner.tokens_per_micro_batch // rollout.max_sequence_tokens)
    shape = shape_of(config, model, adapters)
    trained = shape if has_learner(config) else None
    groups = float(slots * rollout.n * rollout.max_response_tokens * _BYTES_PER_RESPONSE_TOKEN)
    ranks = _ranks_per_node(config)
    return Derived(
        slots=slots,
        staleness_bound=staleness_bound(config.queue.staleness, config.queue.overtake),
        samples_per_step=samples,
        max_tokens_per_step=samples * rollout.max_sequence_tokens,
        micro_batches_per_rank=math.ceil(math.ceil(samples / max(1, learner.ranks)) / per_micro_batch),
        gpus=gpus_wanted(config),
        cpus=actors.sampler_range.max + actors.verifier_range.max + learner.ranks,
        shape=shape,
        sampler_memory=sampler_memory_of(config, shape) if has_samplers(config) else None,
        learner_memory=rank_memory(config, trained) if trained else None,
        activation_memory=activation_memory(config, trained) if trained else None,
        reference_memory=reference_memory(config, trained) if trained else None,
        ranks_per_node=ranks,
        loading_memory=loading_memory(config, trained) + _mapped_memory(config, trained) if trained else None,
        moved_memory=ranks * moved_host_memory(config, trained) if trained else None,
        host_memory=_host_memory(config, shape) + groups if shape and not gpus_wanted(config) else None,
        group_memory=groups,
        transit=_transit(config, shape) if shape and _updates_weights(config) else None,
        kv_cache=kv_cache_of(config, shape, slots) if shape and has_samplers(config) else None,
    )


def _updates_weights(config: RunConfig) -> bool:
    return has_samplers(config) and has_learner(config)


def _gpus_per_node(config: RunConfig) -> int:
    return max((kind.gpus for kind in config.cluster.node_types.values()), default=0) or _GPUS_PER_NODE


def _ranks_per_node(config: RunConfig) -> int:
    """Learner ranks on one node: all of a local run or on CPUs, else at most as many as the node has GPUs."""
    local = config.cluster.address is None or not config.learner.gpus_per_rank
    return config.learner.ranks if local else min(config.learner.ranks, _gpus_per_node(config))


def loading_memory(config: RunConfig, shape: Shape) -> float:
    """Host memory of the ranks on the node of rank 0 while they load; what is mapped from the files is left out.

    Rank 0 reads the model, and the others receive it in the memory where it stays. Below ZeRO-3 every rank reads the
    reference.
    """
    ranks, learner = _ranks_per_node(config), config.learner
    partitioned, on_host = learner.zero_stage == 3, not learner.gpus_per_rank or learner.offload == "all"
    weights = shape.parameters * weight_bytes(config)
    kept = ranks * weights / (learner.ranks if partitioned else 1) if on_host else 0.0
    copied = (shape.parameters - shape.mapped) * weight_bytes(config)
    read = copied if partitioned or not on_host else 0.0  # else what rank 0 reads is what it keeps
    if keeps_reference(config):
        kept, read = (2 * kept, read) if partitioned else (kept, max(read, ranks * copied))
    return ranks * LEARNER_RUNTIME + kept + read


def _mapped_memory(config: RunConfig, shape: Shape) -> float:
    """The pages of the files, once for all ranks of a node."""
    return float(shape.mapped * weight_bytes(config))


def _host_memory(config: RunConfig, shape: Shape) -> float:
    """Everything on one machine without GPUs, except for the groups in flight."""
    actors, learner = config.actors, config.learner
    sampler = sampler_memory_of(config, shape) or 0.0
    transit = _transit(config, shape) if _updates_weights(config) else None
    ranks = learner.ranks * rank_memory(config, shape) if has_learner(config) else 0.0
    loading = loading_memory(config, shape) if has_learner(config) else 0.0
    return (
        actors.sampler_range.max * sampler
        + max(ranks, loading)
        + actors.verifier_range.max * VERIFIER_RUNTIME
        + _OTHER_RUNTIME
        + (transit.shared_memory + transit.object_store if transit else 0.0)
    )


def _transit(config: RunConfig, shape: Shape) -> Transit:
    """Memory in transit. All buckets are published before the first is loaded, so all of them are in memory per path.

    Samplers on the learner's node map the learner's files. For the others the object store holds the weights on the
    learner's node and on theirs, and each sampler writes them to its own files.
    """
    weights = float(shape.sent * weight_bytes(config))
    samplers, gpus = config.actors.sampler_range.max, config.sampler.gpus
    if config.broadcast.chosen_backend == "ipc":
        return Transit(0.0, 0.0, _SYNC_FIXED_SECONDS)  # copies within the GPU
    one_node = config.cluster.address is None or 0 < gpus_wanted(config) <= _gpus_per_node(config)
    per_node = samplers if one_node else max(1, min(samplers, _gpus_per_node(config) // gpus if gpus else 1))
    nodes = math.ceil(samplers / per_node)
    if config.broadcast.chosen_backend == "nccl":  # rank 0 sends each bucket once, and the samplers pass it on
        local = DEVICE_SPEED if gpus else COPY_SPEED
        travel = weights / (local if one_node else min(local, NETWORK_SPEED))
        copied = 0.0 if gpus else 3 * weights / COPY_SPEED  # by rank 0, and by a CPU engine, which packs what it loads
        return Transit(0.0, 0.0, _SYNC_FIXED_SECONDS + copied + travel)
    learner_speed = DEVICE_SPEED if config.learner.gpus_per_rank else COPY_SPEED
    engine_seconds = weights / DEVICE_SPEED if gpus else 2 * weights / COPY_SPEED  # a CPU engine packs what it loads
    fetched = weights / learner_speed
    if one_node and config.broadcast.transport != "object_store":
        return Transit(weights, 0.0, _SYNC_FIXED_SECONDS + fetched + weights / COPY_SPEED + engine_seconds)
    packed = 2 * weights / COPY_SPEED  # into a bucket, and from there into the store
    travel = 0.0 if one_node else nodes * weights / NETWORK_SPEED  # all leave through the learner's node
    seconds = fetched + packed + travel + weights / COPY_SPEED + engine_seconds
    return Transit(per_node * weights, weights, _SYNC_FIXED_SECONDS + seconds)
