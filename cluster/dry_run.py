"""The figures that follow from a configuration: slots, batch sizes, devices, memory. What `--dry-run` prints.

The memory figures are estimates from sizes (weights, gradients, Adam moments, key-value cache, logits) plus a measured
allowance for the runtime of each process; they are meant to catch a factor of two, not ten per cent.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from actors.queue_state import staleness_bound
from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.model_facts import ModelFacts, read_model
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
    return 2 * parameters * _weight_bytes(config) + sampler.kv_cache_gib * GIB + _SAMPLER_RUNTIME


def _learner_memory(config: RunConfig, parameters: int | None, model: ModelFacts | None) -> float | None:
    """One rank: weights, gradients, Adam's two moments (and float32 copies beside bfloat16), sharded by ZeRO stage."""
    if parameters is None:
        return None
    learner = config.learner
    half = config.model.dtype == "bfloat16"
    weights, gradients, optimiser = _weight_bytes(config), 4, (12 if half else 8)
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
    layers = model.layers * model.hidden * kept_per_layer * _weight_bytes(config)
    share = (config.rollout.max_response_tokens + 1) / config.rollout.max_sequence_tokens
    return tokens * (layers + 3 * 4 * model.vocabulary * share)


def _weight_bytes(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def memory_problems(
    config: RunConfig, derived: Derived, model: ModelFacts | None, *, available: float | None = None
) -> list[str]:
    """Lines for everything that cannot fit; `available` is the host's memory in bytes, None to ask the machine."""
    problems = []
    rollout, sampler, gpu = config.rollout, config.sampler, config.cluster.gpu_memory_gib * GIB
    local = config.cluster.address is None
    if local and derived.group_memory > config.cluster.object_store_mib * MIB:
        problems.append(
            f"rollout.n = {rollout.n} x {derived.slots} groups in flight take {_size(derived.group_memory)} of Ray's "
            f"object store, but cluster.object_store_mib = {config.cluster.object_store_mib}; lower rollout.n, "
            "rollout.prompts_per_step or queue.staleness, or raise cluster.object_store_mib"
        )
    if local and derived.host_memory is not None:
        available = total_memory() if available is None else available
        if derived.host_memory > available:
            problems.append(
                f"the job needs about {_size(derived.host_memory)} but this machine has {_size(available)}; lower "
                "sampler.kv_cache_gib, learner.tokens_per_micro_batch, actors.samplers or learner.ranks, or take a "
                "smaller model.path"
            )
    if sampler.gpus and derived.parameters is not None and derived.sampler_memory is not None:
        weights = derived.parameters * _weight_bytes(config)
        if weights > derived.sampler_memory:
            problems.append(
                f"one sampler's share of its GPUs is {_size(derived.sampler_memory)} but the weights alone take "
                f"{_size(weights)}; raise sampler.gpus and sampler.tensor_parallel"
            )
    if config.learner.gpus_per_rank and derived.learner_memory is not None and derived.learner_memory > gpu:
        problems.append(
            f"one learner rank needs about {_size(derived.learner_memory)} but cluster.gpu_memory_gib = "
            f"{config.cluster.gpu_memory_gib:g}; raise learner.zero_stage or learner.ranks, or lower "
            "learner.tokens_per_micro_batch"
        )
    if model is not None:
        problems += _context_problems(config, model)
    return problems


def _context_problems(config: RunConfig, model: ModelFacts) -> list[str]:
    problems = []
    length = config.sampler.max_model_len or config.rollout.max_sequence_tokens
    if model.context is not None and length > model.context:
        problems.append(
            f"sequences of {length} tokens (rollout.max_prompt_tokens + rollout.max_response_tokens, or "
            f"sampler.max_model_len) exceed the model's context of {model.context}; lower one of them"
        )
    needed = length * model.kv_values_per_token * _weight_bytes(config)
    if not config.sampler.gpus and needed > config.sampler.kv_cache_gib * GIB:
        problems.append(
            f"one sequence of {length} tokens needs {_size(needed)} of key-value cache but sampler.kv_cache_gib = "
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


def warnings_of(config: RunConfig) -> list[str]:
    """Combinations that run but are seldom meant."""
    found = []
    if config.learner.warmup_steps >= config.run.steps:
        found.append(
            f"learner.warmup_steps = {config.learner.warmup_steps} is not below run.steps = {config.run.steps}: "
            "the learning rate never reaches its value"
        )
    if config.model.dtype == "bfloat16" and config.agreement.max_gap < 5e-3:
        found.append(
            f"model.dtype = bfloat16 with agreement.max_gap = {config.agreement.max_gap:g}: the rounding of "
            "bfloat16 alone makes gaps near 1e-2 nats per token, at which the run would stop"
        )
    if config.cluster.address and config.broadcast.transport == "shared_memory":
        found.append(
            "broadcast.transport = shared_memory on a cluster: every sampler must run on the learner's node; "
            "auto chooses for each sampler"
        )
    return found


def load_model_facts(config: RunConfig, *, must_exist: bool) -> tuple[ModelFacts | None, str | None]:
    """The model's facts, and a warning instead of an error where a missing directory is allowed (dry runs).

    Raises:
        UsageError: the directory is there but is no model; or is missing and `must_exist`.
    """
    if must_exist or os.path.isdir(config.model.path):
        return read_model(config.model.path), None
    hint = config.model.parameters_billions
    estimate = (
        f"memory is estimated from model.parameters_billions = {hint:g}"
        if hint
        else ("no memory estimate: set model.parameters_billions for one")
    )
    return None, (
        f"model.path = {config.model.path} is not on this machine: a run here would be refused; {estimate}, "
        "and lengths and architecture were not checked"
    )


def check_memory(config: RunConfig) -> Derived:
    """Derived figures of a run that is about to start.

    Raises:
        UsageError: the model is missing or something cannot fit.
    """
    model, _ = load_model_facts(config, must_exist=True)
    derived = derive(config, model)
    problems = memory_problems(config, derived, model)
    if problems:
        raise UsageError("\n".join(problems))
    return derived


def report(config: RunConfig, derived: Derived) -> list[tuple[str, str]]:
    """Rows (figure, value) for the terminal."""
    device = "GPU" if config.sampler.gpus else "host"
    rank_device = "GPU" if config.learner.gpus_per_rank else "host"
    rows = [
        ("groups in flight (slots)", f"{derived.slots} = (staleness + 1) x prompts_per_step"),
        ("staleness bound", f"{derived.staleness_bound} optimiser steps"),
        ("samples per step", f"{derived.samples_per_step}"),
        ("tokens per step, at most", f"{derived.max_tokens_per_step:,}"),
        ("tokens per micro-batch", f"{config.learner.tokens_per_micro_batch:,}"),
        ("micro-batches per rank, at most", f"{derived.micro_batches_per_rank}"),
        ("samples in all", f"{derived.samples_per_step * config.run.steps:,} over {config.run.steps} steps"),
        ("model parameters", "unknown" if derived.parameters is None else f"{derived.parameters:,}"),
        (f"memory of one sampler ({device})", _size(derived.sampler_memory)),
        (f"memory of one learner rank ({rank_device})", _size(derived.learner_memory)),
        ("groups in flight, memory", _size(derived.group_memory)),
        ("CPUs", f"{derived.cpus} (one per sampler, verifier and learner rank)"),
        ("GPUs", f"{derived.gpus}"),
    ]
    if derived.host_memory is not None:
        rows.append(("memory of the whole job", _size(derived.host_memory)))
    return rows


def _size(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
