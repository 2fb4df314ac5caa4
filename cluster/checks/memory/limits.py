"""Whether a run fits into the memory of its machines: the figures of estimates.py against what they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from actors.weights.bucket_files import SHARED_MEMORY
from cluster.checks.memory.card import card_bytes, local_gpus
from cluster.checks.memory.estimates import Derived
from cluster.checks.memory.rank import published_on_device, reserved_memory, shared_card_need
from cluster.checks.memory.sampler import kv_cache_of, sampler_memory_of
from cluster.checks.memory.shape import (
    GIB,
    MIB,
    Shape,
    has_learner,
    has_samplers,
    keeps_reference,
    sequence_tokens,
    size_text,
    weight_bytes,
)
from cluster.checks.model_facts import ModelFacts
from cluster.config import RunConfig

# Relative error of an estimate. An excess within it is a warning, because the run may fit; a larger one is refused.
ERROR = 0.1


def memory_problems(
    config: RunConfig, derived: Derived, model: ModelFacts | None, *, available: float | None = None
) -> list[str]:
    """Lines for everything that cannot fit; `available` is the host's memory in bytes, None to ask the machine.

    What is too large only by an assumed shape, or by less than the error of the estimates, is a warning
    (:func:`memory_warnings`), not a refusal.
    """
    problems: list[str] = []
    if config.cluster.address is None:
        problems += _store_problems(config, derived)
    if _runs_here(config, derived):
        problems += _host_problems(config, derived, total_memory() if available is None else available)
        problems += _shared_memory_problems(config, derived)
    problems += _gpu_problems(config, derived)
    problems += _optimizer_problems(config, derived)
    if model is not None:
        problems += _context_problems(config, model)
    return problems


def _optimizer_problems(config: RunConfig, derived: Derived) -> Iterator[str]:
    if config.learner.optimizer == "adamw_8bit" and has_learner(config) and derived.shape is not None:
        # Vectors, which are updated apart, are too few to matter.
        if problem := config.learner.too_many_for_8bit(config.model.dtype, derived.shape.trained):
            yield problem


def _runs_here(config: RunConfig, derived: Derived) -> bool:
    return config.cluster.address is None and local_gpus() >= derived.gpus


def _host_problems(config: RunConfig, derived: Derived, available: float) -> Iterator[str]:
    excess = _host_excess(config, derived, available)
    if excess and excess.certain > (1 + ERROR) * available:
        yield excess.text
    if derived.host_memory is None and derived.loading_memory is not None and derived.loading_memory > available:
        remedies = ["take a smaller model.path, or one whose files have model.dtype"]
        if keeps_reference(config) and config.learner.zero_stage < 3:
            remedies.insert(0, "set learner.zero_stage = 3, where one rank reads the KL reference for all")
        yield (
            f"loading the model takes about {size_text(derived.loading_memory)} of host memory on the node of the "
            f"first learner rank ({loading_text(config, derived)}), but this machine has {size_text(available)}; "
            f"{', or '.join(remedies)}"
        )
    if derived.moved_memory is not None and derived.moved_memory > available:
        learner = config.learner
        key, value = ("sleep", learner.sleep) if learner.offload == "none" else ("offload", learner.offload)
        adapters = "" if learner.lora else ", or train adapters (learner.lora)"
        yield (
            f"learner.{key} = {value} takes about {size_text(derived.moved_memory)} of host memory with learner.ranks "
            f"= {learner.ranks}, but this machine has {size_text(available)}; set learner.{key} = none{adapters}, or "
            "take a smaller model.path"
        )


@dataclass(frozen=True)
class _Excess:
    """More memory than a machine or a GPU has. `certain`: bytes without those of a guess at the model's shape."""

    certain: float
    text: str


def _host_excess(config: RunConfig, derived: Derived, available: float) -> _Excess | None:
    """The excess of the job over the machine's memory; None if it fits, or the estimate is not known."""
    if derived.host_memory is None or derived.host_memory <= available:
        return None
    sampling = ["sampler.kv_cache_gib", "actors.samplers"] if has_samplers(config) else []
    learning = ["learner.tokens_per_micro_batch", "learner.ranks"] if has_learner(config) else []
    *keys, last = [*sampling, *learning]
    text = (
        f"the job needs about {size_text(derived.host_memory)} but this machine has {size_text(available)}; "
        f"lower {', '.join(keys)} or {last}, or take a smaller model.path"
    )
    return _Excess(derived.host_memory - _assumed(config, derived), text)


def _assumed(config: RunConfig, derived: Derived) -> float:
    """Bytes of the ranks' activations, where they follow from a guess at the model's shape; else 0."""
    guessed = derived.shape is not None and derived.shape.assumed
    return config.learner.ranks * (derived.activation_memory or 0.0) if guessed else 0.0


def loading_text(config: RunConfig, derived: Derived) -> str:
    """Who holds what while the model is loaded."""
    partitioned, on_host = config.learner.zero_stage == 3, not config.learner.gpus_per_rank
    if on_host and not partitioned:
        text = f"{derived.ranks_per_node} x the model, which every rank keeps"
    else:
        text = "rank 0 reads the model for all" + (", each rank keeps its part" if on_host else "")
    return text + ("; every rank reads the KL reference" if keeps_reference(config) and not partitioned else "")


def reference_text(config: RunConfig, derived: Derived) -> str:
    where = "partitioned over the ranks" if config.learner.zero_stage == 3 else "whole on every rank"
    return f"{size_text(derived.reference_memory)}, {where}"


def _store_problems(config: RunConfig, derived: Derived) -> Iterator[str]:
    """The local Ray's object store against the groups and weights that must be in it."""
    store, rollout = config.cluster.object_store_mib, config.rollout
    if store * MIB > total_memory():
        yield (
            f"cluster.object_store_mib = {store} is more than the memory of this machine "
            f"({size_text(total_memory())}); lower it"
        )
    if has_samplers(config) and derived.group_memory > store * MIB:
        yield (
            f"rollout.n = {rollout.n} x {derived.slots} groups in flight take {size_text(derived.group_memory)} of "
            f"Ray's object store, but cluster.object_store_mib = {store}; lower rollout.n, "
            "rollout.prompts_per_step or queue.staleness, or raise cluster.object_store_mib"
        )
    transit = derived.transit
    if transit and transit.object_store and transit.object_store + derived.group_memory > store * MIB:
        yield (
            f"broadcast.transport = object_store puts {size_text(transit.object_store)} of weights into Ray's object "
            f"store at every update, next to {size_text(derived.group_memory)} of groups, but "
            f"cluster.object_store_mib = {store}; raise it, or set broadcast.transport = auto"
        )


def _shared_memory_problems(config: RunConfig, derived: Derived) -> Iterator[str]:
    transit, free = derived.transit, _free_shared_memory()
    if transit is not None and free is not None and transit.shared_memory > free:
        yield (
            f"broadcast.transport = {config.broadcast.transport}: every weight update takes "
            f"{size_text(transit.shared_memory)} of {SHARED_MEMORY}, which has {size_text(free)} left; enlarge it "
            "(docker: --shm-size), or take a smaller model.path"
        )


def _free_shared_memory() -> float | None:
    try:
        return float(psutil.disk_usage(str(SHARED_MEMORY)).free)
    except OSError:  # no such file system here; the learner's own message will name it
        return None


def _gpu_problems(config: RunConfig, derived: Derived) -> Iterator[str]:
    shape = derived.shape
    if shape is None:
        return
    if config.sampler.gpus and has_samplers(config):
        yield from _sampler_problems(config, derived, shape)
    excess = _gpu_excess(config, derived, shape)
    if excess and excess.certain > (1 + ERROR) * card_bytes(config):
        yield excess.text


def _gpu_excess(config: RunConfig, derived: Derived, shape: Shape) -> _Excess | None:
    """The excess of a learner rank's peak over the memory of its GPU; None if it has no GPU, or fits."""
    rank, card = derived.learner_memory, card_bytes(config)
    if rank is None or not config.learner.gpus_per_rank:
        return None
    colocated = config.cluster.placement == "colocated"
    need = shared_card_need(config, shape) if colocated else rank
    if need <= card:
        return None
    if rank > card:
        text = _rank_too_large(config, derived)
    else:
        remedies = ["lower learner.tokens_per_micro_batch", *_colocated_remedies(config, derived, shape)]
        text = (
            f"cluster.placement = colocated: a learner rank needs {size_text(rank)} at its peak, and {size_text(need)} "
            f"together with what the sampler keeps (sampler.sleep = {config.sampler.sleep}), but one GPU has "
            f"{size_text(card)}; {', or '.join(remedies)}"
        )
    return _Excess(need - _assumed(config, derived) / config.learner.ranks, text)


def _sampler_problems(config: RunConfig, derived: Derived, shape: Shape) -> Iterator[str]:
    """A sampler on GPUs whose share of them is too small for its weights, or for one sequence."""
    weights, share = shape.parameters * weight_bytes(config), derived.sampler_memory or 0.0
    if weights > share:
        own = "one sampler's share of its GPUs"
        reason, remedy = f"{own} is {size_text(share)}", "raise sampler.gpus and sampler.tensor_parallel"
        if config.cluster.placement == "colocated":
            reason = _shared_card_text(config, derived, shape)
            remedy = ", or ".join(_colocated_remedies(config, derived, shape))
        yield f"{reason} but the weights alone take {size_text(weights)}; {remedy}"
    elif derived.kv_cache and not derived.kv_cache.sequences and not shape.assumed:
        yield _no_room_for_a_sequence(config, derived, shape)


def _shared_card_text(config: RunConfig, derived: Derived, shape: Shape) -> str:
    return (
        f"cluster.placement = colocated: one GPU has {size_text(card_bytes(config))}, of which the learner rank keeps "
        f"{size_text(reserved_memory(config, shape))} while the sampler works, so one sampler's share is "
        f"{size_text(derived.sampler_memory)}"
    )


def _colocated_remedies(config: RunConfig, derived: Derived, shape: Shape) -> list[str]:
    """What makes a learner rank and a sampler fit on one GPU: the settings that move least of it to the host first."""
    sampler, learner = config.sampler, config.learner
    remedies = []
    if sampler.gpu_memory_utilization is not None:
        remedies.append("leave sampler.gpu_memory_utilization out, so that it follows from what the learner keeps")
    tried = config.model_copy(update={"sampler": sampler.model_copy(update={"gpu_memory_utilization": None})})
    if sampler.sleep != "weights" and config.queue.staleness == 0:
        tried = tried.model_copy(update={"sampler": tried.sampler.model_copy(update={"sleep": "weights"})})
        remedies.append("set sampler.sleep = weights")
    for offload, least in (("none", 0), ("optimizer", 1), ("all", 3)):
        stage = max(least, learner.zero_stage)
        with_offload = learner.model_copy(update={"offload": offload, "zero_stage": stage})
        if not _fits_shared_card(tried.model_copy(update={"learner": with_offload}), derived, shape):
            continue
        if offload not in ("none", learner.offload):
            zero = "" if stage == learner.zero_stage else f" and learner.zero_stage = {stage}"
            remedies.append(f"set learner.offload = {offload}{zero}")
        break
    return [*remedies, "take a smaller model.path, or use cluster.placement = separate on more GPUs"]


def _fits_shared_card(config: RunConfig, derived: Derived, shape: Shape) -> bool:
    if shape.parameters * weight_bytes(config) > (sampler_memory_of(config, shape) or 0.0):
        return False
    room = shape.assumed or kv_cache_of(config, shape, derived.slots).sequences > 0
    return room and shared_card_need(config, shape) <= card_bytes(config)


def _no_room_for_a_sequence(config: RunConfig, derived: Derived, shape: Shape) -> str:
    lacks = f"has no room for the key-value cache of one sequence of {sequence_tokens(config)} tokens"
    if config.cluster.placement == "colocated":
        remedies = ["lower rollout.max_response_tokens", *_colocated_remedies(config, derived, shape)]
        return (
            f"{_shared_card_text(config, derived, shape)}, which {lacks} next to the weights; {', or '.join(remedies)}"
        )
    return (
        f"next to the weights, one sampler's share of its GPUs ({size_text(derived.sampler_memory)}) {lacks}; raise "
        "sampler.gpus and sampler.tensor_parallel, or sampler.gpu_memory_utilization"
    )


def _rank_too_large(config: RunConfig, derived: Derived) -> str:
    parts = [f"activations and logits {size_text(derived.activation_memory)}"]
    remedies = ["lower learner.tokens_per_micro_batch"]
    if config.cluster.placement == "colocated" and derived.shape is not None:
        remedies += _colocated_remedies(config, derived, derived.shape)
    else:
        remedies.insert(0, "raise learner.zero_stage or learner.ranks")
        remedies += ["set learner.offload = optimizer"] if config.learner.offload == "none" else []
    if not config.learner.activation_checkpointing:
        remedies.append("set learner.activation_checkpointing")
    if derived.reference_memory:
        parts.append(f"the KL's reference model {reference_text(config, derived)}")
        remedies.append("set loss.kl_coefficient = 0 (and no schedule.kl)")
    copies = published_on_device(config, derived.shape, "nccl") if derived.shape else 0.0
    if copies > (derived.activation_memory or 0.0):
        parts = [f"the weights of an update {size_text(copies)}", *parts[1:]]
        remedies.append("set broadcast.backend = host")
    return (
        f"one learner rank needs about {size_text(derived.learner_memory)} (of it {'; '.join(parts)}) but "
        f"one GPU has {size_text(card_bytes(config))} (cluster.gpu_memory_gib); {', or '.join(remedies)}"
    )


def memory_warnings(config: RunConfig, derived: Derived) -> list[str]:
    """What may be too slow or too large; what :func:`memory_problems` refuses is left out."""
    shape, cache = derived.shape, derived.kv_cache
    if shape is None:
        return []
    assumed = f"with an assumed shape of the model ({shape_text(shape)}) " if shape.assumed else ""
    found = _excess_warnings(config, derived, shape, assumed)
    if cache is None:  # there are no samplers
        return found
    if config.sampler.gpus and not cache.sequences and shape.assumed:
        found.append(assumed + _no_room_for_a_sequence(config, derived, shape))
    largest, key_of_largest = _largest_group(config)
    if 0 < cache.sequences < min(cache.wanted, largest):
        key = "sampler.gpus" if config.sampler.gpus else "sampler.kv_cache_gib"
        found.append(
            f"the key-value cache of one sampler holds {cache.sequences} sequences of {sequence_tokens(config)} "
            f"tokens, less than one group of {key_of_largest} = {largest}: the rest waits or is computed twice; "
            f"raise {key}, or lower sampler.max_num_seqs or rollout.max_response_tokens"
        )
    if derived.transit is not None and derived.transit.seconds > config.deadlines.broadcast_s:
        found.append(
            f"one weight update takes about {derived.transit.seconds:.0f} s, more than deadlines.broadcast_s = "
            f"{config.deadlines.broadcast_s:g}; raise it"
        )
    return found


def _excess_warnings(config: RunConfig, derived: Derived, shape: Shape, assumed: str) -> list[str]:
    """What is larger than the machine or the GPU by a guess, or by less than the error of the estimates."""
    excesses = [(_gpu_excess(config, derived, shape), card_bytes(config))]
    if _runs_here(config, derived):
        excesses.append((_host_excess(config, derived, total_memory()), total_memory()))
    note = "" if assumed else f"; the estimate may be wrong by {ERROR:.0%}, so it may fit all the same"
    return [
        f"{assumed}{excess.text}{note}" for excess, room in excesses if excess and excess.certain <= (1 + ERROR) * room
    ]


def _context_problems(config: RunConfig, model: ModelFacts) -> list[str]:
    problems = []
    length = sequence_tokens(config)
    keys = "rollout.max_prompt_tokens + rollout.max_response_tokens"
    if config.sampler.max_model_len is not None:
        keys = "sampler.max_model_len"
    if model.context is not None and length > model.context:
        problems.append(
            f"sequences of {length} tokens ({keys}) exceed the model's context of {model.context}; lower {keys}"
        )
    needed = length * model.kv_values_per_token * weight_bytes(config)
    if has_samplers(config) and not config.sampler.gpus and needed > config.sampler.kv_cache_gib * GIB:
        problems.append(
            f"one sequence of {length} tokens needs {size_text(needed)} of key-value cache but sampler.kv_cache_gib = "
            f"{config.sampler.kv_cache_gib:g}; raise it"
        )
    return problems


def total_memory() -> float:
    """Bytes of memory that this process may use: the machine's, or its control group's limit if lower."""
    total = float(psutil.virtual_memory().total)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(limit)
        if file.is_file():
            text = file.read_text().strip()
            if text.isdigit():
                total = min(total, float(text))
    return total


def shape_text(shape: Shape) -> str:
    text = f"{shape.layers} layers of width {shape.hidden}, vocabulary {shape.vocabulary:,}"
    return f"assumed: {text}" if shape.assumed else text


def _largest_group(config: RunConfig) -> tuple[int, str]:
    """Its samples, and the key that sets them."""
    rollout = config.rollout
    if rollout.allocation is None:
        return rollout.n, "rollout.n"
    return rollout.allocation.limits(config.objective, config.objective.k, rollout.n)[1], "rollout.allocation.max_n"
