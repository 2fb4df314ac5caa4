"""GPUs: how many a configuration wants, and which settings of actors and memory on them exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import RunConfig


def gpus_wanted(config: RunConfig) -> int:
    """GPUs that samplers, learner ranks and verifier workers take together."""
    actors, learner = config.actors, config.learner
    verifiers = ceil(actors.verifier_range.min * actors.verifier_gpus)
    if config.cluster.placement == "colocated":
        return learner.ranks + verifiers
    return actors.sampler_range.min * config.sampler.gpus + int(learner.ranks * learner.gpus_per_rank) + verifiers


def gpus_text(config: RunConfig) -> str:
    """The keys from which :func:`gpus_wanted` follows."""
    verifiers = "actors.verifiers x actors.verifier_gpus"
    if config.cluster.placement == "colocated":
        return f"learner.ranks, each with a sampler on its GPU, + {verifiers}"
    samplers = "actors.samplers x sampler.gpus" if config.actors.sampler_range.max and config.sampler.gpus else ""
    verifiers = verifiers if config.actors.verifier_range.max and config.actors.verifier_gpus else ""
    ranks = "learner.ranks x learner.gpus_per_rank" if config.learner.ranks else ""  # else it only samples
    return " + ".join(filter(None, [samplers, ranks, verifiers]))


def fewer_gpus(config: RunConfig) -> str:
    """How to lower :func:`gpus_wanted`."""
    if config.cluster.placement == "colocated" and config.actors.verifier_gpus:
        return (
            f"actors.verifier_gpus = {config.actors.verifier_gpus:g} needs a GPU of its own, because sampler and "
            "learner share out the whole memory of theirs: run the judge on the CPU (actors.verifier_gpus = 0) or "
            "behind a server (task.reward = http://...)"
        )
    return "lower one of them"


def gpu_rule_problems(config: RunConfig) -> Iterator[str]:
    """One line for each violated rule."""
    for rule in (_devices, _shared_gpus, _sampler_sleep, _learner_sleep, _offload):
        yield from rule(config)


def _devices(config: RunConfig) -> Iterator[str]:
    sampler, learner = config.sampler, config.learner
    if sampler.gpus and sampler.tensor_parallel != sampler.gpus:
        yield (
            f"sampler.tensor_parallel = {sampler.tensor_parallel} differs from sampler.gpus = {sampler.gpus}; "
            "set both to the GPUs of one sampler"
        )
    if not sampler.gpus and sampler.tensor_parallel != 1:
        yield (
            f"sampler.tensor_parallel = {sampler.tensor_parallel} needs sampler.gpus = {sampler.tensor_parallel}; "
            "on the CPU (sampler.gpus = 0) it must be 1"
        )
    if learner.gpus_per_rank not in (0, 1):
        yield (
            f"learner.gpus_per_rank = {learner.gpus_per_rank:g}: a rank owns one GPU (1) or computes on the CPU (0); "
            "for more GPUs raise learner.ranks"
        )


def _shared_gpus(config: RunConfig) -> Iterator[str]:
    """Samplers and learner ranks on the same GPUs, and what saves memory there."""
    sampler, learner, samplers = config.sampler, config.learner, config.actors.sampler_range
    colocated = config.cluster.placement == "colocated"
    if colocated and not (sampler.gpus == 1 and learner.gpus_per_rank == 1):
        yield (
            f"cluster.placement = colocated puts one sampler and one learner rank on each GPU, but sampler.gpus = "
            f"{sampler.gpus} and learner.gpus_per_rank = {learner.gpus_per_rank:g}; set both to 1, or use "
            "cluster.placement = separate"
        )
    if colocated and not samplers.min == samplers.max == learner.ranks:
        yield (
            f"cluster.placement = colocated needs as many samplers as learner ranks: actors.samplers is {samplers.min} "
            f"to {samplers.max} and learner.ranks = {learner.ranks}; make them equal"
        )
    if config.broadcast.backend == "ipc" and not (colocated and learner.ranks == 1):
        yield (
            "broadcast.backend = ipc needs cluster.placement = colocated and learner.ranks = 1: weights stay on the "
            "one GPU that both roles share; use host"
        )
    if config.broadcast.backend == "nccl" and colocated:
        yield (
            "broadcast.backend = nccl cannot join two processes on one GPU, where cluster.placement = colocated puts "
            "them; use broadcast.backend = host, or cluster.placement = separate"
        )
    if config.broadcast.backend == "nccl" and bool(sampler.gpus) != bool(learner.gpus_per_rank):
        yield (
            f"broadcast.backend = nccl needs samplers and learner on GPUs, or both on CPUs, but sampler.gpus = "
            f"{sampler.gpus} and learner.gpus_per_rank = {learner.gpus_per_rank:g}; use broadcast.backend = host"
        )


def _offload(config: RunConfig) -> Iterator[str]:
    learner = config.learner
    if learner.offload != "none" and not learner.gpus_per_rank:
        yield f"learner.offload = {learner.offload} moves memory off a GPU; set learner.gpus_per_rank = 1, or none"
    least = {"none": 0, "optimizer": 1, "all": 3}[learner.offload]
    if learner.zero_stage < least:
        yield (
            f"learner.offload = {learner.offload} needs learner.zero_stage = {least}{' or more' if least < 3 else ''} "
            f"(is {learner.zero_stage}), also with one rank; raise it"
        )
    if learner.optimizer == "adamw_8bit" and not (learner.gpus_per_rank and learner.offload == "none"):
        yield (
            "learner.optimizer = adamw_8bit runs on a GPU, with its state there; set learner.gpus_per_rank = 1 and "
            "learner.offload = none, or learner.optimizer = adamw"
        )


def _sampler_sleep(config: RunConfig) -> Iterator[str]:
    sleep, staleness = config.sampler.sleep, config.queue.staleness
    if sleep == "none":
        return
    if not config.sampler.gpus:
        yield f"sampler.sleep = {sleep}: vLLM frees no memory on the CPU (sampler.gpus = 0); set sampler.sleep = none"
    elif config.cluster.placement != "colocated":
        yield (
            f"sampler.sleep = {sleep} frees memory for a learner on the same GPU, which cluster.placement = separate "
            "does not have; set sampler.sleep = none, or cluster.placement = colocated"
        )
    if staleness:
        yield (
            f"sampler.sleep = {sleep} needs queue.staleness = 0 (is {staleness}), because otherwise samplers work "
            "while the learner does; set sampler.sleep = none or queue.staleness = 0"
        )
    if sleep == "weights" and config.learner.sent_adapters:
        yield (
            "sampler.sleep = weights discards the model, which learner.lora.send = adapters does not send again; set "
            "sampler.sleep = cache or learner.lora.send = merged"
        )


def _learner_sleep(config: RunConfig) -> Iterator[str]:
    learner, key = config.learner, f"learner.sleep = {config.learner.sleep}"
    if learner.sleep == "none":
        return
    if config.cluster.placement != "colocated":
        yield (
            f"{key} frees memory for a sampler on the same GPU, which cluster.placement = separate does not have; set "
            "learner.sleep = none, or cluster.placement = colocated"
        )
    elif config.sampler.sleep == "none":
        yield (
            f"{key} needs sampler.sleep = weights or cache, because otherwise the engine keeps its memory while the "
            "learner works, and nothing is gained; set one of them, or learner.sleep = none"
        )
    if learner.zero_stage != 2:
        yield (
            f"{key} needs learner.zero_stage = 2 (is {learner.zero_stage}), also with one rank, because in bfloat16 "
            "DeepSpeed moves the states of that stage only; set learner.zero_stage = 2, or learner.sleep = none"
        )
    if learner.offload != "none":
        yield (
            f"{key} moves what learner.offload = {learner.offload} keeps in host memory at all times; set "
            "learner.sleep = none or learner.offload = none"
        )
    if learner.optimizer != "adamw":
        yield (
            f"{key} is not tested with learner.optimizer = {learner.optimizer}, whose state has tables besides the "
            "moments; set learner.optimizer = adamw, or learner.sleep = none"
        )
