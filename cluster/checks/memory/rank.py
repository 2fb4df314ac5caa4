"""Memory of one learner rank on its device."""

from __future__ import annotations

import math

from cluster.checks.memory.gradients import GradientMemory, gradient_memory
from cluster.checks.memory.shape import GIB, MIB, Shape, keeps_reference, weight_bytes
from cluster.config import RunConfig

LEARNER_RUNTIME = 0.9 * GIB  # resident before the weights: interpreter, torch, Ray worker
_GPU_RUNTIME = GIB  # CUDA context, communication buffers

# Values that a layer keeps for the backward pass of one token, counted in Llama's (attention without its matrix).
# In units of hidden: two for each of two norms; inputs of q, k and v and of the feed-forward part; q, k and v, the
# latter repeated for all heads of q; what attention returns. In bfloat16 the norms keep float32 in addition.
_KEPT_BY_ATTENTION = 10
_KEPT_IN_FLOAT32 = 2
# In units of the feed-forward part's width: gate, up, the activation and their product.
_KEPT_BY_FEED_FORWARD = 4
# float32 logits, their gradient, and one temporary of the softmax.
_LOGIT_COPIES = 3
_OFFLOADED = 16  # bytes of a trained weight: it, its gradient and Adam's two moments in float32
_ZERO3_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters


def reserved_memory(config: RunConfig, shape: Shape | None) -> float:
    """Bytes that a learner rank keeps on the GPU while a sampler on it samples; 0 if they share no GPU.

    If the sampler sleeps while the learner works, activations and what else a step needs are not counted, because the
    learner frees them before the sampler wakes; with `learner.sleep` the optimizer's states are not counted either.
    """
    if config.cluster.placement != "colocated" or shape is None:
        return 0.0
    turn = 0.0 if config.sampler.sleep == "none" else _turn_memory(config, shape)
    if config.learner.sleep != "none":
        turn += _optimizer_memory(config, shape)
    return rank_memory(config, shape) - turn + published_on_device(config, shape, "ipc")


def moved_host_memory(config: RunConfig, shape: Shape) -> float:
    """Bytes of host memory of one rank with what `learner.offload` keeps there, or `learner.sleep` for a while.

    0 without both; they exclude each other. Each of the three tensors that sleep moves (two moments, and the weights in
    float32) is a block of pinned memory, whose size torch rounds up to a power of two. Torch keeps the blocks for the
    next time. Offload may take more than its sum for the same reason.
    """
    learner = config.learner
    if learner.offload != "none":  # partitioned: it needs zero_stage 1, or 3 for all
        weights = shape.parameters * weight_bytes(config) * (2 if keeps_reference(config) else 1)
        kept = _OFFLOADED * shape.trained + (weights if learner.offload == "all" else 0)
        return LEARNER_RUNTIME + kept / learner.ranks
    if learner.sleep != "none":
        return LEARNER_RUNTIME + 3 * 2.0 ** math.ceil(math.log2(4 * shape.trained / learner.ranks))
    return 0.0


def published_on_device(config: RunConfig, shape: Shape, *backends: str) -> float:
    """Bytes of the copies on learner rank 0's device while a weight update travels by one of `backends`."""
    return float(shape.sent * weight_bytes(config)) if config.broadcast.chosen_backend in backends else 0.0


def shared_card_need(config: RunConfig, shape: Shape) -> float:
    """Bytes of a shared GPU while the learner works: its peak, and what the sleeping sampler keeps."""
    asleep = _GPU_RUNTIME + (0.0 if config.sampler.sleep == "weights" else shape.parameters * weight_bytes(config))
    return rank_memory(config, shape) + asleep + published_on_device(config, shape, "ipc")  # kept between updates


def rank_memory(config: RunConfig, shape: Shape) -> float:
    """The peak of one rank: weights, gradients, Adam's two moments (and float32 copies next to bfloat16), sharded by
    ZeRO stage; and what a step needs in addition.

    With `learner.offload`, only what stays on the GPU.
    """
    learner = config.learner
    weights = 0 if learner.offload == "all" else weight_bytes(config)
    held = shape.parameters + (shape.trained if learner.lora else 0)
    states = held * weights / (learner.ranks if learner.stage(config.model.dtype) >= 3 else 1)
    states += _optimizer_memory(config, shape) + _gradients(config, shape).held
    runtime = _GPU_RUNTIME if learner.gpus_per_rank else LEARNER_RUNTIME
    return (
        states
        + _gathered_memory(config, shape)
        + reference_memory(config, shape)
        # One after the other; what ipc publishes is counted with what the sampler of the GPU leaves.
        + max(_turn_memory(config, shape), published_on_device(config, shape, "nccl"))
        + runtime
    )


def _optimizer_memory(config: RunConfig, shape: Shape) -> float:
    """Adam's two moments, and float32 copies next to bfloat16 weights."""
    learner, bfloat16 = config.learner, config.model.dtype == "bfloat16"
    if learner.offload != "none":
        return 0.0
    each = (2 if learner.optimizer == "adamw_8bit" else 8) + (4 if bfloat16 else 0)
    return shape.trained * each / (learner.ranks if learner.stage(config.model.dtype) >= 1 else 1)


def _gradients(config: RunConfig, shape: Shape) -> GradientMemory:
    largest = shape.vocabulary * shape.hidden
    return gradient_memory(config.learner, config.model.dtype, shape.trained, min(largest, shape.trained))


def _turn_memory(config: RunConfig, shape: Shape) -> float:
    """What one rank needs for a step and frees after it."""
    gradients, activations = _gradients(config, shape), activation_memory(config, shape)
    if config.learner.gpus_per_rank:
        return gradients.step + max(activations, gradients.update)
    # On a CPU freed activations stay with the process: their blocks are below the 32 MiB from which the C library
    # returns each one to the system.
    return gradients.step + activations + gradients.update


def _gathered_memory(config: RunConfig, shape: Shape) -> float:
    """Under ZeRO-3: whole weights that a rank holds for a while, in a forward pass or for one bucket of an update."""
    learner = config.learner
    if learner.zero_stage < 3:
        return 0.0
    others = 1.0 if learner.offload == "all" else 1 - 1 / learner.ranks  # its own part is counted already
    live = min(shape.parameters, _ZERO3_LIVE_PARAMETERS) * weight_bytes(config)
    largest = shape.vocabulary * shape.hidden * weight_bytes(config)  # the embedding is a bucket alone
    return others * max(live, config.broadcast.bucket_mib * MIB, largest)


def reference_memory(config: RunConfig, shape: Shape) -> float:
    """The KL's reference model: whole on every rank, or at ZeRO-3 a part of it and one gathered weight, the largest."""
    if not keeps_reference(config):
        return 0.0
    learner, weights = config.learner, float(shape.parameters * weight_bytes(config))
    if learner.zero_stage < 3:
        return weights
    part = 0.0 if learner.offload == "all" else weights / learner.ranks
    return part + (1 - 1 / learner.ranks) * shape.vocabulary * shape.hidden * weight_bytes(config)


def activation_memory(config: RunConfig, shape: Shape) -> float:
    """Memory of a micro-batch: what each layer keeps for the backward pass, and float32 logits with their gradient.

    The logits are those of response tokens, at most a chunk. Where prompts are short nearly every token is one, so all
    are counted.
    """
    learner, weight = config.learner, weight_bytes(config)
    attention = _KEPT_BY_ATTENTION + (_KEPT_IN_FLOAT32 if config.model.dtype == "bfloat16" else 0)
    layer = attention * shape.hidden + _KEPT_BY_FEED_FORWARD * shape.inner
    # With checkpointing: the input of every layer, and one layer recomputed with its gradients.
    kept = shape.layers * shape.hidden + 2 * layer if learner.activation_checkpointing else shape.layers * layer
    layers = learner.tokens_per_micro_batch * kept * weight
    logits, chunk = 4 * learner.tokens_per_micro_batch * shape.vocabulary, learner.logits_chunk_bytes
    # The head's gradient; under LoRA there is none. Those of chunks are added up in float32; in bfloat16 the rounded
    # sum comes in addition at the end.
    head = 0 if learner.lora else shape.vocabulary * shape.hidden
    if chunk is None or logits <= chunk:
        return float(layers + _LOGIT_COPIES * logits + head * weight)
    return float(layers + _LOGIT_COPIES * chunk + head * (4 if weight == 4 else 4 + weight))
