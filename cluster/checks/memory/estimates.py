"""Sizes and times that follow from a configuration by arithmetic. Only the memory of a GPU is read (card.py).

The figures are meant to catch a factor of two, not ten per cent. docs/memory.md has each formula, a measured run, and
two large layouts computed by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.card_memory import utilization
from actors.queue.state import staleness_bound
from cluster.checks.adapters import AdapterSizes
from cluster.checks.memory.card import card_bytes
from cluster.checks.memory.gradients import GradientMemory, gradient_memory
from cluster.checks.model_facts import ModelFacts
from cluster.config import RunConfig
from cluster.config.rules import gpus_wanted

GIB = 2**30
MIB = 2**20
_GPUS_PER_NODE = 8  # assumed on a cluster whose nodes are not described (cluster.node_types)

# Resident memory of a process before its weights: interpreter, torch, Ray worker; vLLM adds a second process.
_SAMPLER_RUNTIME = 1.6 * GIB
_LEARNER_RUNTIME = 0.9 * GIB
_OTHER_RUNTIME = 1.5 * GIB  # driver, Ray's own processes, verifier workers and the queue
VERIFIER_RUNTIME = 0.33 * GIB
_GPU_RUNTIME = GIB  # CUDA context, communication buffers
_VLLM_WORKSPACE = 2 * GIB  # on each GPU: activations of a full batch, CUDA graphs
# Arrow bytes of one response token: token id int32 and log-probability float32; doubled for the copy in flight.
_BYTES_PER_RESPONSE_TOKEN = 16

# The shape of a model of which only the size is known: a dense decoder with 12 hidden^2 weights a layer and
# hidden = 80 x layers (public models lie between 40 and 130), the largest vocabulary in common use, 8 KV heads of 128.
_HIDDEN_PER_LAYER = 80
_ASSUMED_VOCABULARY = 262_144
_ASSUMED_KV_PER_LAYER = 2 * 8 * 128
# Widths in and out of a layer's linear layers, in units of hidden: q, k, v, o and two of the 4 x hidden wide ones.
_ADAPTED_PER_LAYER = 18

# Values that one layer keeps for the backward pass, in units of tokens x hidden (attention without its matrix).
_KEPT_PER_LAYER = 16
# float32 logits, their gradient, and one temporary of the softmax.
_LOGIT_COPIES = 3
_ZERO3_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters

# Bytes per second of the steps of a weight update. Assumptions, printed with the figure.
COPY_SPEED = 4e9  # memory to memory on one thread
DEVICE_SPEED = 6e9  # pageable memory to or from a GPU
NETWORK_SPEED = 3e9  # 25 Gbit/s
_SYNC_FIXED_SECONDS = 0.06  # measured with the shipped model


@dataclass(frozen=True)
class Shape:
    """What memory depends on. `mapped`: weights whose files have `model.dtype`, which need not be copied to be read.
    `assumed`: guessed from the number of parameters, because the model is not here.
    `trained`, `sent`: weights that have a gradient, and those of one update; all without `learner.lora`.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_values_per_token: int
    mapped: int
    assumed: bool
    trained: int
    sent: int


@dataclass(frozen=True)
class Transit:
    """Bytes of the published weights while they are on their way, on the node that holds most of each."""

    shared_memory: float
    object_store: float
    seconds: float


@dataclass(frozen=True)
class KvCache:
    """Key-value cache of a sampler: sequences of full length that it holds, and sequences that are decoded at once."""

    sequences: int
    wanted: int


@dataclass(frozen=True)
class Derived:
    """Figures derived from one configuration. Memory in bytes; None where the model's size is not known.

    Without samplers (imitation), what only they have is None.

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
    groups = float(slots * rollout.n * rollout.max_response_tokens * _BYTES_PER_RESPONSE_TOKEN)
    ranks = _ranks_per_node(config)
    return Derived(
        slots=slots,
        staleness_bound=staleness_bound(config.queue.staleness, config.queue.overtake),
        samples_per_step=samples,
        max_tokens_per_step=samples * rollout.max_sequence_tokens,
        micro_batches_per_rank=math.ceil(math.ceil(samples / learner.ranks) / per_micro_batch),
        gpus=gpus_wanted(config),
        cpus=actors.sampler_range.max + actors.verifier_range.max + learner.ranks,
        shape=shape,
        sampler_memory=sampler_memory_of(config, shape) if has_samplers(config) else None,
        learner_memory=_learner_memory(config, shape) if shape else None,
        activation_memory=_activation_memory(config, shape) if shape else None,
        reference_memory=_reference_memory(config, shape) if shape else None,
        ranks_per_node=ranks,
        loading_memory=loading_memory(config, shape) + _mapped_memory(config, shape) if shape else None,
        host_memory=_host_memory(config, shape) + groups if shape and not gpus_wanted(config) else None,
        group_memory=groups,
        transit=_transit(config, shape) if shape and has_samplers(config) else None,
        kv_cache=kv_cache_of(config, shape, slots) if shape and has_samplers(config) else None,
    )


def shape_of(config: RunConfig, model: ModelFacts | None, adapters: AdapterSizes | None = None) -> Shape | None:
    """The model's own shape, or one assumed from `model.parameters_billions`, or None."""
    if model is not None:
        parameters, layers, hidden, vocabulary = model.parameters, model.layers, model.hidden, model.vocabulary
        kv_values, mapped = model.kv_values_per_token, model.mapped.get(config.model.dtype, 0)
    elif config.model.parameters_billions is not None:
        parameters, mapped = round(config.model.parameters_billions * 1e9), 0
        layers = max(1, round((parameters / (12 * _HIDDEN_PER_LAYER**2)) ** (1 / 3)))
        hidden, vocabulary, kv_values = _HIDDEN_PER_LAYER * layers, _ASSUMED_VOCABULARY, _ASSUMED_KV_PER_LAYER * layers
    else:
        return None
    trained = sent = parameters
    if config.learner.lora:
        trained, sent = adapters or (
            _ADAPTED_PER_LAYER * hidden * layers * config.learner.lora.rank,
            max(parameters - vocabulary * hidden, parameters // 2),
        )
        sent = trained if config.learner.sent_adapters else sent
        sent = parameters if config.sampler.sleep == "weights" else sent  # the sampler has discarded its weights
    return Shape(parameters, layers, hidden, vocabulary, kv_values, mapped, model is None, trained, sent)


def has_samplers(config: RunConfig) -> bool:
    """False for imitation, which has a learner only."""
    return config.actors.sampler_range.max > 0


def weight_bytes(config: RunConfig) -> int:
    """Bytes of one weight, and of one number in the key-value cache."""
    return 2 if config.model.dtype == "bfloat16" else 4


def keeps_reference(config: RunConfig) -> bool:
    """Whether every learner rank keeps a frozen copy of the model for the KL term, in the loss or in the reward.

    With `learner.lora` the frozen model itself is the reference.
    """
    return bool(config.loss.kl_coefficient or config.schedule.kl) and config.learner.lora is None


def sampler_memory_of(config: RunConfig, shape: Shape | None) -> float | None:
    """Memory of one sampler: the share of its GPUs that vLLM may take, or weights, cache and runtime on the host."""
    sampler = config.sampler
    if sampler.gpus:
        card = card_bytes(config)
        return sampler.gpus * card * utilization(sampler, card, reserved_memory(config, shape))
    if shape is None:
        return None
    # vLLM packs CPU weights for its kernels next to the loaded ones.
    return 2 * shape.parameters * weight_bytes(config) + sampler.kv_cache_gib * GIB + _SAMPLER_RUNTIME


def reserved_memory(config: RunConfig, shape: Shape | None) -> float:
    """Bytes that a learner rank keeps on the card while a sampler on it samples; 0 if they share no card.

    If the sampler sleeps while the learner works, activations and what a step needs come and go with its turn.
    """
    if config.cluster.placement != "colocated" or shape is None:
        return 0.0
    turn = 0.0 if config.sampler.sleep == "none" else _turn_memory(config, shape)
    return _learner_memory(config, shape) - turn + published_on_device(config, shape, "ipc")


def published_on_device(config: RunConfig, shape: Shape, *backends: str) -> float:
    """Bytes of the copies on learner rank 0's device while a weight update travels by one of `backends`."""
    return float(shape.sent * weight_bytes(config)) if config.broadcast.chosen_backend in backends else 0.0


def shared_card_need(config: RunConfig, shape: Shape) -> float:
    """Bytes of a shared card while the learner works: its peak, and what the sleeping sampler keeps."""
    asleep = _GPU_RUNTIME + (0.0 if config.sampler.sleep == "weights" else shape.parameters * weight_bytes(config))
    return _learner_memory(config, shape) + asleep + published_on_device(config, shape, "ipc")  # kept between updates


def _learner_memory(config: RunConfig, shape: Shape) -> float:
    """The peak of one rank: weights, gradients, Adam's two moments (and float32 copies next to bfloat16), sharded by
    ZeRO stage; and what a step needs in addition.

    With `learner.offload`, only what stays on the GPU.
    """
    learner, bfloat16 = config.learner, config.model.dtype == "bfloat16"
    moments = 2 if learner.optimizer == "adamw_8bit" else 8
    weights, optimizer = weight_bytes(config), moments + (4 if bfloat16 else 0)
    stage = max(1, learner.zero_stage) if bfloat16 else learner.zero_stage
    if learner.offload != "none":
        optimizer = 0
    if learner.offload == "all":
        weights = 0
    held = shape.parameters + (shape.trained if learner.lora else 0)
    states = held * weights / (learner.ranks if stage >= 3 else 1)
    states += shape.trained * optimizer / (learner.ranks if stage >= 1 else 1) + _gradients(config, shape).held
    runtime = _GPU_RUNTIME if learner.gpus_per_rank else _LEARNER_RUNTIME
    return (
        states
        + _gathered_memory(config, shape)
        + _reference_memory(config, shape)
        # One after the other; what ipc publishes is counted with what the sampler of the card leaves.
        + max(_turn_memory(config, shape), published_on_device(config, shape, "nccl"))
        + runtime
    )


def _gradients(config: RunConfig, shape: Shape) -> GradientMemory:
    largest = shape.vocabulary * shape.hidden
    return gradient_memory(config.learner, config.model.dtype, shape.trained, min(largest, shape.trained))


def _turn_memory(config: RunConfig, shape: Shape) -> float:
    """What one rank needs for a step and frees after it."""
    gradients = _gradients(config, shape)
    return gradients.step + max(_activation_memory(config, shape), gradients.update)


def _gathered_memory(config: RunConfig, shape: Shape) -> float:
    """Under ZeRO-3: whole weights that a rank holds for a while, in a forward pass or for one bucket of an update."""
    learner = config.learner
    if learner.zero_stage < 3:
        return 0.0
    others = 1.0 if learner.offload == "all" else 1 - 1 / learner.ranks  # its own part is counted already
    live = min(shape.parameters, _ZERO3_LIVE_PARAMETERS) * weight_bytes(config)
    largest = shape.vocabulary * shape.hidden * weight_bytes(config)  # the embedding is a bucket alone
    return others * max(live, config.broadcast.bucket_mib * MIB, largest)


def _reference_memory(config: RunConfig, shape: Shape) -> float:
    """The KL's reference model: whole on every rank, or at ZeRO-3 a part of it and one gathered weight, the largest."""
    if not keeps_reference(config):
        return 0.0
    learner, weights = config.learner, float(shape.parameters * weight_bytes(config))
    if learner.zero_stage < 3:
        return weights
    part = 0.0 if learner.offload == "all" else weights / learner.ranks
    return part + (1 - 1 / learner.ranks) * shape.vocabulary * shape.hidden * weight_bytes(config)


def _activation_memory(config: RunConfig, shape: Shape) -> float:
    """Memory of a micro-batch: what each layer keeps for the backward pass, and float32 logits with their gradient.

    The logits are those of response tokens, at most a chunk. Where prompts are short nearly every token is one, so all
    are counted.
    """
    learner = config.learner
    # With checkpointing: the input of every layer, and one layer recomputed with its gradients.
    kept = shape.layers + 2 * _KEPT_PER_LAYER if learner.activation_checkpointing else shape.layers * _KEPT_PER_LAYER
    layers = learner.tokens_per_micro_batch * kept * shape.hidden * weight_bytes(config)
    logits, chunk = 4 * learner.tokens_per_micro_batch * shape.vocabulary, learner.logits_chunk_bytes
    if chunk is None or logits <= chunk:
        return float(layers + _LOGIT_COPIES * logits)
    # The chunks' gradients of the head are added up in float32: the sum, and that of one chunk, or at the end the sum
    # in bfloat16. Under LoRA the head has none.
    head = 0 if learner.lora else shape.vocabulary * shape.hidden * (4 + weight_bytes(config))
    return float(layers + _LOGIT_COPIES * chunk + head)


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
    return ranks * _LEARNER_RUNTIME + kept + read


def _mapped_memory(config: RunConfig, shape: Shape) -> float:
    """The pages of the files, once for all ranks of a node."""
    return float(shape.mapped * weight_bytes(config))


def sampler_host_memory(config: RunConfig, shape: Shape) -> float:
    """Host memory of one sampler, also of one on GPUs, where vLLM has a process for each."""
    gpus = config.sampler.gpus
    return (1 + gpus) * _SAMPLER_RUNTIME if gpus else sampler_memory_of(config, shape) or 0.0


def _host_memory(config: RunConfig, shape: Shape) -> float:
    """Everything on one machine without GPUs, except for the groups in flight."""
    actors, learner = config.actors, config.learner
    sampler = sampler_memory_of(config, shape) or 0.0
    transit = _transit(config, shape) if has_samplers(config) else None
    return (
        actors.sampler_range.max * sampler
        + max(learner.ranks * _learner_memory(config, shape), loading_memory(config, shape))
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
        return Transit(0.0, 0.0, _SYNC_FIXED_SECONDS)  # copies within the card
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


def sequence_tokens(config: RunConfig) -> int:
    """The context that a sampler's engine is built for."""
    return config.sampler.max_model_len or config.rollout.max_sequence_tokens


def size_text(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
