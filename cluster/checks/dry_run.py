"""What `--dry-run` prints, and combinations that are seldom meant; memory/limits.py says what does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from actors.weights.bucket_files import SHARED_MEMORY
from cluster.checks.disk_space import checkpoint_bytes, kept_checkpoints
from cluster.checks.memory.card import local_card_bytes, local_gpus
from cluster.checks.memory.estimates import COPY_SPEED, DEVICE_SPEED, NETWORK_SPEED, Derived
from cluster.checks.memory.limits import loading_text, reference_text, shape_text
from cluster.checks.memory.rank import published_on_device, reserved_memory
from cluster.checks.memory.shape import (
    GIB,
    Shape,
    has_learner,
    has_samplers,
    keeps_reference,
    sequence_tokens,
    size_text,
)
from cluster.checks.model_facts import ModelFacts, read_model
from cluster.checks.model_notes import active_parameters, cache_is_bounded
from cluster.checks.prompts import evaluates
from cluster.checks.ray_cluster import counted
from cluster.config import RunConfig
from cluster.config.gpu_rules import gpus_wanted
from cluster.config.hub_ids import hub_id
from learner.schedule import scheduled_integer
from verifiers.text.stop_tokens import chat_templates, stop_token_ids

# Flags of /proc/cpuinfo with which oneDNN, torch's library for matrix products, supports bfloat16: AVX-512 and its
# successors on x86, the extension of that name on Arm. Without them torch has only a plain loop.
_BFLOAT16 = {"avx512bw", "avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}
LARGER_GPU = 1.2  # times the stated memory
LARGE, HIGH_RATE = 1e8, 2e-5  # parameters; a learning rate above which reinforcement learning of all of them is rare


def warnings_of(config: RunConfig, *, trains: bool = True) -> list[str]:
    """Combinations that run but are seldom meant.

    Args:
        trains: the job is a run with a learner; false for an evaluation, a recording, and imitation.
    """
    found = list(_run_warnings(config)) if trains else []
    if config.model.dtype == "bfloat16" and _computes_here(config) and not multiplies_bfloat16():
        found.append(
            "model.dtype = bfloat16 on a processor without instructions for it (AVX-512, AMX): it is more "
            "than ten times slower than float32 here; set model.dtype: float32"
        )
    found += [*_idle_gpus(config), *_unused_memory(config)]
    if config.supervision.backoff_s > config.supervision.backoff_max_s:
        found.append(
            f"supervision.backoff_s = {config.supervision.backoff_s:g} is above supervision.backoff_max_s = "
            f"{config.supervision.backoff_max_s:g}, which is then used instead; raise supervision.backoff_max_s"
        )
    if has_samplers(config):
        found += _sampling_warnings(config)
    return [*found, *_model_warnings(config)]


def _run_warnings(config: RunConfig) -> Iterator[str]:
    """Combinations of a run of samplers and learner; other jobs compare nothing and have their own lengths."""
    if config.learner.warmup_steps >= config.run.steps:
        yield (
            f"learner.warmup_steps = {config.learner.warmup_steps} is not below run.steps = {config.run.steps}: "
            "the learning rate never reaches its value"
        )
    if config.model.dtype == "bfloat16" and config.agreement.max_gap < 5e-3:
        yield (
            f"model.dtype = bfloat16 with agreement.max_gap = {config.agreement.max_gap:g}: the rounding of "
            "bfloat16 alone makes gaps near 1e-2 nats per token, at which the run would stop"
        )


def _sampling_warnings(config: RunConfig) -> Iterator[str]:
    """Combinations of settings that only samplers, weight updates and evaluations read."""
    if config.cluster.address is None and not config.sampler.gpus and config.sampler.threads > (os.cpu_count() or 1):
        yield (
            f"sampler.threads = {config.sampler.threads} is above the {os.cpu_count()} cores of this machine: more "
            "threads than cores wait for each other; lower it"
        )
    if config.cluster.address and config.broadcast.transport == "shared_memory":
        yield (
            "broadcast.transport = shared_memory on a cluster: every sampler must run on the learner's node; "
            "auto chooses for each sampler"
        )
    if config.evaluation.keep_best and config.evaluation.split == "test":
        yield (
            f"evaluation.keep_best = {config.evaluation.keep_best} chooses on evaluation.split = test: the value of "
            "the chosen step is then biased upwards; choose on validation, and evaluate that checkpoint on test"
        )
    if evaluates(config) and config.evaluation.sampling.greedy:
        yield (
            "evaluation.temperature = 0 is greedy: one sample of each prompt is drawn, whatever evaluation.n is, and "
            "only pass@1 is reported"
        )


def learning_rate_warnings(config: RunConfig, shape: Shape | None) -> list[str]:
    """A learning rate for small models that trains all weights of a large one."""
    key, rate = "learner.learning_rate", config.learner.learning_rate
    if (scheduled := config.schedule.learning_rate) is not None:
        highest = max(scheduled.value(0, rate), *scheduled.explicit_values())
        key, rate = key if highest == rate else "schedule.learning_rate", highest
    if shape is None or shape.parameters < LARGE or rate <= HIGH_RATE:
        return []
    if config.learner.lora or config.objective.imitation != "none":
        return []
    return [
        f"{key} = {rate:g} is high for training all {shape.parameters:,} weights of the model; usual are 1e-6 to 1e-5"
    ]


def _computes_here(config: RunConfig) -> bool:
    """Whether the learner or a sampler works on the CPU of this machine."""
    learns_on_cpus = has_learner(config) and not config.learner.gpus_per_rank
    on_cpus = learns_on_cpus or (has_samplers(config) and not config.sampler.gpus)
    return on_cpus and config.cluster.address is None


def _idle_gpus(config: RunConfig) -> Iterator[str]:
    """Layouts that compute on the CPU next to a GPU."""
    sampler, learner = config.sampler.gpus, config.learner.gpus_per_rank
    if not has_samplers(config):
        if not learner and config.cluster.address is None and local_gpus():
            yield (
                "learner.gpus_per_rank = 0: the learner trains on the CPU next to a GPU, which is slower by orders of "
                "magnitude; set learner.gpus_per_rank = 1"
            )
    elif sampler and not learner and has_learner(config):
        yield (
            "learner.gpus_per_rank = 0: the learner trains on the CPU while the samplers have GPUs, which is slower by "
            "orders of magnitude; set learner.gpus_per_rank = 1, on one GPU with cluster.placement = colocated"
        )
    elif learner and not sampler and has_learner(config):
        yield (
            "sampler.gpus = 0: the samplers work on the CPU while the learner has GPUs; set sampler.gpus = 1, on one "
            "GPU with cluster.placement = colocated"
        )
    elif config.cluster.address is None and not sampler and (idle := local_gpus()):
        keys = "sampler.gpus = 1"
        if has_learner(config):
            keys += " and learner.gpus_per_rank = 1, on one GPU with cluster.placement = colocated"
        yield f"this machine has {counted(idle, 'GPU')}, and the layout uses none; set {keys}"


def _unused_memory(config: RunConfig) -> Iterator[str]:
    """A stated memory of a GPU, such as that of a preset, which is far below that of the GPU here."""
    stated = config.cluster.gpu_memory_gib
    if stated is None or config.cluster.address is not None or not gpus_wanted(config):
        return
    found = (local_card_bytes() or 0.0) / GIB
    if found > LARGER_GPU * stated:
        yield (
            f"cluster.gpu_memory_gib = {stated:g}, but the GPU of this machine has {found:.0f} GiB, of which the run "
            "leaves the rest unused; set cluster.gpu_memory_gib=null, which asks the GPU"
        )


def _model_warnings(config: RunConfig) -> list[str]:
    """What the files of the model say about prompts and ends of responses."""
    directory = Path(config.model.path)
    if not directory.is_dir():
        return []
    found = []
    if has_samplers(config) and not stop_token_ids(directory):
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
    if (must_exist and not hub_id(config.model.path)) or os.path.exists(config.model.path):
        return read_model(config.model.path), None
    hint = config.model.parameters_billions
    estimate = (
        f"memory is estimated from model.parameters_billions = {hint:g}"
        if hint
        else ("no memory estimate: set model.parameters_billions for one")
    )
    if hub_id(config.model.path):
        return None, (
            f"model.path = {config.model.path} is not in the Hugging Face cache of this machine: a start fetches it "
            f"from the hub; {estimate}, and lengths, architecture and prompts' tokens were not checked"
        )
    return None, (
        f"model.path = {config.model.path} is not on this machine, where the run would be refused; {estimate}, "
        "and lengths and architecture were not checked"
    )


def report(config: RunConfig, derived: Derived) -> list[tuple[str, str]]:
    """Rows (figure, value) for the terminal."""
    samples, learns, actors = has_samplers(config), has_learner(config), "learner rank"
    rows = []
    if samples:
        actors = "sampler, verifier and learner rank" if learns else "sampler and verifier"
        rows += [
            ("groups in flight (slots)", f"{derived.slots} = (staleness + 1) x prompts_per_step"),
            ("staleness bound", f"{derived.staleness_bound} optimizer steps"),
        ]
    rows += [
        ("samples per step", f"{derived.samples_per_step}"),
        *_allocation_rows(config),
        ("tokens per step, at most", f"{derived.max_tokens_per_step:,}"),
    ]
    if learns:
        rows += [
            ("tokens per micro-batch", f"{config.learner.tokens_per_micro_batch:,}"),
            ("micro-batches per rank, at most", f"{derived.micro_batches_per_rank}"),
        ]
    rows += [
        ("samples in all", f"{derived.samples_per_step * config.run.steps:,} over {config.run.steps} steps"),
        ("CPUs", f"{derived.cpus} (one per {actors})"),
        ("GPUs", f"{derived.gpus}"),
        *_memory_rows(config, derived),
    ]
    if derived.host_memory is not None:
        rows.append(("memory of the whole job", size_text(derived.host_memory)))
    if derived.shape is not None and learns:
        size = size_text(checkpoint_bytes(config, derived.shape))
        rows.append(("disk", f"{size} for a checkpoint; up to {kept_checkpoints(config)} at once"))
    return rows


def _memory_rows(config: RunConfig, derived: Derived) -> Iterator[tuple[str, str]]:
    rank_device = "GPU" if config.learner.gpus_per_rank else "host"
    shape = derived.shape
    yield "model parameters", _parameters_text(config, derived)
    yield "model shape", "unknown" if shape is None else shape_text(shape)
    if config.learner.lora and shape is not None:
        yield (
            "  adapters of learner.lora",
            f"{shape.trained:,} weights are trained, {shape.trained / shape.parameters:.2%}",
        )
        if has_samplers(config):
            share = f"{shape.sent / shape.parameters:.0%} of the model"
            sent = "the adapters" if config.learner.sent_adapters else share
            yield "  weights of one update", f"{shape.sent:,}, {sent}"
    if has_samplers(config):
        yield from _sampler_rows(config, derived)
    if has_learner(config):
        yield f"memory of one learner rank ({rank_device})", size_text(derived.learner_memory)
        yield "  activations and logits", size_text(derived.activation_memory)
        if config.learner.sleep != "none" and shape is not None:
            yield "  kept while samplers work (learner.sleep)", size_text(reserved_memory(config, shape))
        if keeps_reference(config):
            yield "  reference model of the KL", reference_text(config, derived)
        loading = f": {loading_text(config, derived)}" if shape else ""
        yield "host memory of one node while loading", size_text(derived.loading_memory) + loading
        if config.learner.sleep != "none":
            yield "host memory of one node while ranks sleep", size_text(derived.moved_memory)
        if config.learner.offload != "none":
            yield "host memory of one node, learner.offload", size_text(derived.moved_memory)
    yield "groups in flight, memory", size_text(derived.group_memory)
    if has_samplers(config) and has_learner(config):
        yield from _update_rows(config, derived, rank_device)


def _sampler_rows(config: RunConfig, derived: Derived) -> Iterator[tuple[str, str]]:
    yield f"memory of one sampler ({'GPU' if config.sampler.gpus else 'host'})", size_text(derived.sampler_memory)
    yield "  sequences in its KV cache", "unknown" if derived.kv_cache is None else _cache_text(config, derived)


def _update_rows(config: RunConfig, derived: Derived, rank_device: str) -> Iterator[tuple[str, str]]:
    """What a weight update moves, and how long that takes."""
    shape, transit = derived.shape, derived.transit
    if shape is None or transit is None:
        yield "weights in transit", "unknown"
        return
    copies = published_on_device(config, shape, "ipc", "nccl")
    held = [
        (transit.shared_memory, str(SHARED_MEMORY)),
        (transit.object_store, "Ray's object store"),
        (copies, f"the memory of learner rank 0 ({rank_device})"),
    ]
    yield "weights in transit, one node", " and ".join(f"{size_text(n)} in {place}" for n, place in held if n)
    yield (
        "one weight update",
        (
            f"about {transit.seconds:.2g} s, at {COPY_SPEED / 1e9:g} GB/s in memory, {DEVICE_SPEED / 1e9:g} to a GPU "
            f"and {NETWORK_SPEED / 1e9:g} between nodes"
        ),
    )


def _parameters_text(config: RunConfig, derived: Derived) -> str:
    if derived.shape is None:
        return "unknown"
    text = f"{derived.shape.parameters:,}"
    active = None if derived.shape.assumed else active_parameters(config.model.path)
    return text if active is None else f"{text} in memory, {active:,} of them active for one token"


def _allocation_rows(config: RunConfig) -> list[tuple[str, str]]:
    """The range of group sizes and the choice of prompts, under rollout.allocation."""
    rollout, objective = config.rollout, config.objective
    if rollout.allocation is None:
        return []
    k = scheduled_integer(config.schedule.k, 0, objective.k)
    least, most = rollout.allocation.limits(objective, k, rollout.n)
    rows = [("samples per prompt", f"{least} to {most}, {rollout.n} on average (rollout.allocation)")]
    if (candidates := rollout.allocation.candidates) > 1:
        chosen = f"{rollout.prompts_per_step} of {candidates * rollout.prompts_per_step} candidates"
        rows.append(("prompts per step", f"{chosen}, with weights up to {rollout.allocation.max_weight:g}"))
    return rows


def _cache_text(config: RunConfig, derived: Derived) -> str:
    assert derived.kv_cache is not None and derived.shape is not None
    text = (
        f"{derived.kv_cache.sequences:,} of {sequence_tokens(config)} tokens; up to {derived.kv_cache.wanted:,} are "
        "decoded at once (sampler.max_num_seqs, samples in flight)"
    )
    if not derived.shape.assumed and cache_is_bounded(config.model.path):
        text += "; perhaps more, because some layers keep fewer tokens"
    return text


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether torch has a fast matrix product in bfloat16 here; True where the flags cannot be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # of the first core: x86, Arm
            return not _BFLOAT16.isdisjoint(value.split())
    return True
