"""What `--dry-run` prints and what it refuses: figures of `cluster.estimates` against the machine and the model."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from actors.stop_tokens import chat_templates, stop_token_ids
from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.estimates import GIB, MIB, Derived, derive, size_text, weight_bytes
from cluster.model_facts import ModelFacts, read_model


def memory_problems(
    config: RunConfig, derived: Derived, model: ModelFacts | None, *, available: float | None = None
) -> list[str]:
    """Lines for everything that cannot fit; `available` is the host's memory in bytes, None to ask the machine."""
    problems = []
    rollout, sampler, gpu = config.rollout, config.sampler, config.cluster.gpu_memory_gib * GIB
    local = config.cluster.address is None
    if local and derived.group_memory > config.cluster.object_store_mib * MIB:
        problems.append(
            f"rollout.n = {rollout.n} x {derived.slots} groups in flight take {size_text(derived.group_memory)} of "
            f"Ray's object store, but cluster.object_store_mib = {config.cluster.object_store_mib}; lower rollout.n, "
            "rollout.prompts_per_step or queue.staleness, or raise cluster.object_store_mib"
        )
    if local and derived.host_memory is not None:
        available = total_memory() if available is None else available
        if derived.host_memory > available:
            problems.append(
                f"the job needs about {size_text(derived.host_memory)} but this machine has {size_text(available)}; "
                "lower sampler.kv_cache_gib, learner.tokens_per_micro_batch, actors.samplers or learner.ranks, or take "
                "a smaller model.path"
            )
    if sampler.gpus and derived.parameters is not None and derived.sampler_memory is not None:
        weights = derived.parameters * weight_bytes(config)
        if weights > derived.sampler_memory:
            problems.append(
                f"one sampler's share of its GPUs is {size_text(derived.sampler_memory)} but the weights alone take "
                f"{size_text(weights)}; raise sampler.gpus and sampler.tensor_parallel"
            )
    if config.learner.gpus_per_rank and derived.learner_memory is not None and derived.learner_memory > gpu:
        problems.append(
            f"one learner rank needs about {size_text(derived.learner_memory)} but cluster.gpu_memory_gib = "
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
    needed = length * model.kv_values_per_token * weight_bytes(config)
    if not config.sampler.gpus and needed > config.sampler.kv_cache_gib * GIB:
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
    return [*found, *_model_warnings(config)]


def _model_warnings(config: RunConfig) -> list[str]:
    """What the files of the model say about prompts and ends of responses."""
    directory = Path(config.model.path)
    if not directory.is_dir():
        return []
    found = []
    if not stop_token_ids(directory):
        found.append(
            f"model.path = {directory}: neither generation_config.json, config.json nor the tokenizer names an end "
            "token: every response runs to rollout.max_response_tokens; set eos_token_id in generation_config.json"
        )
    if config.task.template == "plain" and chat_templates(directory):
        found.append(
            "task.template = plain, but the model has a chat template: a chat model answers best to task.template=chat"
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
        (f"memory of one sampler ({device})", size_text(derived.sampler_memory)),
        (f"memory of one learner rank ({rank_device})", size_text(derived.learner_memory)),
        ("groups in flight, memory", size_text(derived.group_memory)),
        ("CPUs", f"{derived.cpus} (one per sampler, verifier and learner rank)"),
        ("GPUs", f"{derived.gpus}"),
    ]
    if derived.host_memory is not None:
        rows.append(("memory of the whole job", size_text(derived.host_memory)))
    return rows
