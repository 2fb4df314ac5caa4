"""Rules over several sections of the configuration: what each section allows alone but not together."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

from learner.schedule import scheduled_integer
from learner.strategies import check_strategy
from verifiers.scorers import make_scorer

if TYPE_CHECKING:
    from cluster.config import RunConfig


def cross_section_problems(config: RunConfig) -> list[str]:
    """One line per violated rule: the keys, their values and the mend. Empty when the sections fit together."""
    rules = (_objective, _rewards, _schedules, _lengths, _devices, _queue, _evaluation)
    return [problem for rule in rules for problem in rule(config)]


def gpus_wanted(config: RunConfig) -> int:
    """GPUs that samplers, learner ranks and verifier workers take together."""
    actors, learner = config.actors, config.learner
    verifiers = ceil(actors.verifier_range.min * actors.verifier_gpus)
    return actors.sampler_range.min * config.sampler.gpus + int(learner.ranks * learner.gpus_per_rank) + verifiers


def _objective(config: RunConfig) -> Iterator[str]:
    objective, n = config.objective, config.rollout.n
    if objective.k > n:
        yield (
            f"objective.k = {objective.k} is above rollout.n = {n}: a group of n samples cannot show the best of "
            f"more; lower objective.k or raise rollout.n"
        )
        return
    try:
        objective.check_group_size(n)
    except ValueError as error:
        yield f"objective.k = {objective.k}, rollout.n = {n}: {error}"


def _rewards(config: RunConfig) -> Iterator[str]:
    for term in config.objective.terms():
        if config.task.format_bonus and term.strategy == "pass_at_k":
            yield (
                f"task.format_bonus = {config.task.format_bonus:g} makes rewards other than 0 and 1, which "
                "objective.strategy = pass_at_k cannot take; use max_at_k, or task.format_bonus = 0"
            )
    try:
        make_scorer(config.task)
    except ValueError as error:
        yield str(error)


def _schedules(config: RunConfig) -> Iterator[str]:
    moves, steps, n = config.schedule, config.run.steps, config.rollout.n
    if config.queue.overtake and (moves.n or moves.temperature):
        yield (
            f"schedule.n and schedule.temperature need queue.overtake = 0 (is {config.queue.overtake}): groups of one "
            "step must be sampled alike"
        )
    ns = [scheduled_integer(moves.n, step, n) for step in range(steps)]
    ks = [scheduled_integer(moves.k, step, config.objective.k) for step in range(steps)]
    if max(ns) != n:
        yield f"schedule.n reaches {max(ns)} but rollout.n = {n}; rollout.n must be its largest value"
    for step, (k, samples) in enumerate(zip(ks, ns, strict=True)):
        try:
            config.objective.model_copy(update={"k": k}).check_group_size(samples)
            check_strategy(config.objective.strategy, k)
        except ValueError as error:
            if moves.k or moves.n:
                yield f"schedule: at step {step}, k = {k} and n = {samples}: {error}"
            return
    if moves.temperature and (lowest := min(moves.temperature.values(steps, config.rollout.temperature))) <= 0:
        yield f"schedule.temperature reaches {lowest:g}; it must stay above 0"
    if moves.kl and (lowest := min(moves.kl.values(steps, config.loss.kl_coefficient))) < 0:
        yield f"schedule.kl reaches {lowest:g}; it must not be negative"


def _lengths(config: RunConfig) -> Iterator[str]:
    rollout, sampler, learner = config.rollout, config.sampler, config.learner
    longest = rollout.max_sequence_tokens
    if sampler.max_model_len is not None and sampler.max_model_len < longest:
        yield (
            f"sampler.max_model_len = {sampler.max_model_len} is below rollout.max_prompt_tokens + "
            f"rollout.max_response_tokens = {longest}; raise it, or set it to null to use the sum"
        )
    if learner.tokens_per_micro_batch < longest:
        yield (
            f"learner.tokens_per_micro_batch = {learner.tokens_per_micro_batch} is below the longest sequence, "
            f"rollout.max_prompt_tokens + rollout.max_response_tokens = {longest}; raise it to at least that"
        )


def _devices(config: RunConfig) -> Iterator[str]:
    sampler, learner, cluster = config.sampler, config.learner, config.cluster
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
    wanted = gpus_wanted(config)
    if cluster.num_gpus is not None and wanted > cluster.num_gpus:
        yield (
            f"the layout takes {wanted} GPUs (actors.samplers x sampler.gpus + learner.ranks x "
            "learner.gpus_per_rank + actors.verifiers x actors.verifier_gpus) but "
            f"cluster.num_gpus = {cluster.num_gpus}; lower one of them"
        )


def _queue(config: RunConfig) -> Iterator[str]:
    queue = config.queue
    if queue.overtake and not queue.staleness:
        yield (
            f"queue.overtake = {queue.overtake} has no effect at queue.staleness = 0, where every step trains exactly "
            "the groups it admitted; set queue.staleness >= 1 or queue.overtake = 0"
        )


def _evaluation(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    runs = evaluation.every or evaluation.at_start or evaluation.at_end
    if runs and evaluation.n < config.objective.k:
        yield (
            f"evaluation.n = {evaluation.n} is below objective.k = {config.objective.k}: the curve would end before "
            "the k that is trained for; raise evaluation.n"
        )
    size = getattr(config.task, f"{evaluation.split}_size", None)
    if size is not None and evaluation.prompts > size:
        yield (
            f"evaluation.prompts = {evaluation.prompts} is above task.{evaluation.split}_size = {size}; lower the one "
            "or raise the other"
        )
