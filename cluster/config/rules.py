"""Rules over several sections of the configuration: what each section allows alone but not together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from math import inf
from typing import TYPE_CHECKING, get_args

from actors.sampling import MIN_TEMPERATURE, Sampling
from cluster.config.allocation_rules import allocation_problems
from cluster.config.gpu_rules import gpu_rule_problems
from cluster.config.keep_best import parse_metric
from learner.objective_settings import FOR_ANY_REWARD
from learner.schedule import Schedule, scheduled_integer
from learner.strategies import STRATEGIES, check_strategy
from verifiers.scorers import make_scorer
from verifiers.settings import INSTRUCTED, INSTRUCTIONS, TaskName
from verifiers.tasks.countdown import DEFAULT_SIZES

if TYPE_CHECKING:
    from cluster.config import RunConfig


def cross_section_problems(config: RunConfig) -> list[str]:
    """One line per violated rule: the keys, their values and the remedy. Empty when the sections fit together."""
    rules = (_prompts, _objective, _rewards, _loss, _schedules, _lengths, gpu_rule_problems)
    return [
        problem for rule in (*rules, _sandbox, _queue, _evaluation, allocation_problems) for problem in rule(config)
    ]


def _prompts(config: RunConfig) -> Iterator[str]:
    task = config.task
    for key, none in (("system_prompt", "null"), ("chat_template_kwargs", "{}")):
        if getattr(task, key) and task.template != "chat":
            yield (
                f"task.{key} has no effect with task.template={task.template}; set task.template=chat, or "
                f"task.{key}={none}"
            )
    own = task.name in get_args(TaskName)
    if own and task.name not in INSTRUCTED and task.instruction not in ("", *INSTRUCTIONS.values()):
        yield f"task.instruction is not read with task.name={task.name}; omit it, or set it to an empty text"
    files = [f"task.jsonl.{key}" for key in ("train", "validation", "test") if getattr(task.jsonl, key) is not None]
    if files and own and task.name != "jsonl":
        yield f"{files[0]} is not read with task.name={task.name}; set task.name=jsonl, or omit it"


def _objective(config: RunConfig) -> Iterator[str]:
    try:
        config.objective.check_group_size(config.rollout.n)
    except ValueError as error:
        yield str(error)


def _rewards(config: RunConfig) -> Iterator[str]:
    task, objective = config.task, config.objective
    terms, binary = objective.terms(), objective.binary_terms()
    if task.format_bonus and binary:
        yield (
            f"task.format_bonus = {task.format_bonus:g} makes rewards other than 0 and 1, which {binary[0]} cannot "
            f"take; use {FOR_ANY_REWARD}; or task.format_bonus = 0"
        )
    if task.format_bonus and objective.imitation != "none":
        yield (
            f"task.format_bonus = {task.format_bonus:g} is added to rewards, which objective.imitation = "
            f"{objective.imitation} does not read; use task.format_bonus = 0"
        )
    votes = [
        t.strategy for t in terms if "correct" in STRATEGIES[t.strategy].required_inputs
    ]  # earn 1 or 0, whatever the reward
    if task.format_bonus and objective.imitation == "none" and len(votes) == len(terms):
        yield (
            f"task.format_bonus = {task.format_bonus:g} is added to rewards, which {votes[0]} does not read, so it has "
            f"no effect; use {FOR_ANY_REWARD}; or task.format_bonus = 0"
        )
    scored = [t.strategy for t in terms if "scores" in STRATEGIES[t.strategy].required_inputs]
    scored += ["bon_sft"] if objective.imitation == "bon_sft" else []
    if task.scorer.kind == "majority" and scored:
        yield (
            f"task.scorer.kind = majority scores a sample by its whole group, so that {scored[0]} would train with a "
            "biased gradient; use objective.strategy = majority_at_k, which is exact, or another scorer"
        )
    if task.scorer.kind == "learned" and task.scorer.path is not None:
        return  # its files are checked where they are read, which may be another machine: cluster/checks/refusals.py
    try:
        make_scorer(task)
    except ValueError as error:
        yield str(error)


def _loss(config: RunConfig) -> Iterator[str]:
    loss = config.loss
    if loss.kl_refresh_every and not (loss.kl_coefficient or config.schedule.kl):
        yield (
            f"loss.kl_refresh_every = {loss.kl_refresh_every} refreshes the reference of the KL term, but there is no "
            "KL term; set loss.kl_coefficient or schedule.kl, or loss.kl_refresh_every = 0"
        )
    if loss.kl_refresh_every and config.learner.lora:
        yield (
            f"loss.kl_refresh_every = {loss.kl_refresh_every} refreshes the reference, but with learner.lora the "
            "reference is the frozen model; set loss.kl_refresh_every = 0"
        )
    if config.objective.off_policy == "exact":
        idle = [*loss.changed_clips(), *(["ratio"] if loss.ratio == "decoupled" else [])]
        for key in idle[:1]:
            yield (
                f"loss.{key} = {getattr(loss, key)} has no effect with objective.off_policy = exact, where the "
                "advantages contain the ratios and nothing is clipped; leave it out (objective.ratio_cap bounds them)"
            )


def _schedules(config: RunConfig) -> Iterator[str]:
    moves, objective = config.schedule, config.objective
    if config.queue.overtake and (moves.n or moves.temperature):
        yield (
            f"schedule.n and schedule.temperature need queue.overtake = 0 (is {config.queue.overtake}): groups of one "
            "step must be sampled alike"
        )
    for key in ("k", "k_by_entropy"):
        if getattr(moves, key) and objective.imitation == "sft":
            yield f"schedule.{key} has no effect with objective.imitation = sft; leave it out, or use bon_sft"
    limits = {"k": (1,), "n": (1,), "kl": (0,), "temperature": (MIN_TEMPERATURE, 10), "learning_rate": (0, 1)}
    ranges = [line for key, found in limits.items() for line in _range(key, getattr(moves, key), *found)]
    yield from ranges
    if not ranges:
        yield from _scheduled_groups(config)


def _range(name: str, schedule: Schedule | None, low: float, high: float = inf) -> Iterator[str]:
    """Values of a schedule that are outside of `low` to `high`."""
    for value in schedule.explicit_values() if schedule else []:
        if not low <= value <= high:
            wanted = f"{low:g} or more" if high == inf else f"{low:g} to {high:g}"
            yield f"schedule.{name} goes to {value:g}; it must be {wanted}: change its start, end or at"


def _scheduled_groups(config: RunConfig) -> Iterator[str]:
    """The first step at which the objective cannot be estimated with the k and n that are scheduled for it."""
    moves, objective, n = config.schedule, config.objective, config.rollout.n
    keys = " and ".join(f"schedule.{name}" for name in ("k", "k_by_entropy", "n") if getattr(moves, name))
    if not keys:
        return
    first: dict[tuple[int, int], int] = {}
    for step, (ks, samples) in enumerate(zip(_scheduled_ks(config), _scheduled_ns(config), strict=True)):
        for k in ks:
            first.setdefault((k, samples), step)
    largest = max(samples for _, samples in first)
    if largest != n:
        yield f"schedule.n reaches {largest} but rollout.n = {n}; rollout.n must be its largest value"
    for (k, samples), step in first.items():
        try:
            check_strategy(objective.strategy, k)
            objective.check_group_size(samples, k)
        except ValueError as error:
            yield f"{keys}: at step {step} (k = {k}, n = {samples}): {error}"
            return


def _scheduled_ks(config: RunConfig) -> Iterator[list[int]]:
    """The values that the objective's own k may have at each step of the run."""
    by_entropy, moves, k = config.schedule.k_by_entropy, config.schedule.k, config.objective.k
    if by_entropy:
        return repeat(by_entropy.possible(k), config.run.steps)
    return ([scheduled_integer(moves, step, k)] for step in range(config.run.steps))


def _scheduled_ns(config: RunConfig) -> Iterator[int]:
    return (scheduled_integer(config.schedule.n, step, config.rollout.n) for step in range(config.run.steps))


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


def _sandbox(config: RunConfig) -> Iterator[str]:
    level, minimum = config.task.sandbox.level, config.task.sandbox.minimum_level
    if level.rank < minimum.rank:
        yield (
            f"task.sandbox.level = {level} is below task.sandbox.minimum_level = {minimum}, below which no "
            "untrusted code is run; raise task.sandbox.level"
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
    if runs and not evaluation.sampling.greedy:  # else pass@1 alone is asked for
        yield from _curves_reach_k(config)
    yield from _restrictions(config)
    yield from _selection(config)
    key = f"{evaluation.split}_size"
    size = getattr(config.task, key) or (DEFAULT_SIZES[evaluation.split] if config.task.name == "countdown" else None)
    if config.task.validation_size == 0 and evaluation.split == "validation" and runs:
        yield (
            "task.validation_size = 0 leaves no problem for evaluation.split = validation; set evaluation.split=test, "
            "or evaluation.every=0, evaluation.at_start=false and evaluation.at_end=false"
        )
    elif size is not None and evaluation.prompts > size:
        yield (
            f"evaluation.prompts = {evaluation.prompts} is above task.{key} = {size}; lower evaluation.prompts "
            f"or raise task.{key}"
        )


def _restrictions(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    off = Sampling()
    for key in ("top_p", "top_k", "min_p"):
        if evaluation.sampling.greedy and (value := getattr(evaluation, key)) != getattr(off, key):
            yield (
                f"evaluation.{key} = {value:g} has no effect with evaluation.temperature = 0, which is greedy; leave "
                "it out, or set a temperature"
            )


def _selection(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.keep_best is None:
        if evaluation.patience:
            yield (
                f"evaluation.patience = {evaluation.patience} needs the metric that must improve; set "
                "evaluation.keep_best, for example objective"
            )
        return
    if not evaluation.every:
        yield (
            f"evaluation.keep_best = {evaluation.keep_best} chooses among evaluated steps, but evaluation.every = 0 "
            "evaluates none during the run; set evaluation.every"
        )
    if evaluation.min_gain and not evaluation.patience:
        yield f"evaluation.min_gain = {evaluation.min_gain:g} has no effect without evaluation.patience; set that too"
    strategy, k = parse_metric(evaluation.keep_best) or ("", 1)
    if k > evaluation.n:
        yield (
            f"evaluation.keep_best = {evaluation.keep_best} needs at least {k} samples of a prompt, but evaluation.n = "
            f"{evaluation.n}; raise evaluation.n"
        )
    elif evaluation.sampling.greedy and evaluation.keep_best not in ("pass_at_k@1", "reward_mean"):
        yield (
            f"evaluation.keep_best = {evaluation.keep_best} is not measured with evaluation.temperature = 0, which "
            "draws one sample; use pass_at_k@1 or reward_mean, or set a temperature"
        )
    if strategy in ("best_of_k", "weighted_vote") and config.task.scorer.kind == "majority":
        yield (
            f"evaluation.keep_best = {evaluation.keep_best} with task.scorer.kind = majority selects by the vote of "
            f"all n samples, not of {k}; use majority_at_k@{k}"
        )


def _curves_reach_k(config: RunConfig) -> Iterator[str]:
    ks = {"objective.k": config.objective.k}
    ks |= {f"objective.mixture.{i}.k": term.k for i, term in enumerate(config.objective.mixture)}
    for name in ("k", "k_by_entropy"):
        if getattr(config.schedule, name):
            ks[f"the largest k of schedule.{name}"] = max(map(max, _scheduled_ks(config)))
    key = max(ks, key=ks.__getitem__)
    if config.evaluation.n < ks[key]:
        yield (
            f"evaluation.n = {config.evaluation.n} is below {key} = {ks[key]}: the curve would end before the k that "
            "is trained for; raise evaluation.n"
        )
