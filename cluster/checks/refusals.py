"""Everything that a start refuses, found before it starts anything: independent checks, one message with all problems.

`--dry-run` makes the same checks. Only what may be different on the machines that will run the job (a model directory,
GPUs, the sandbox) is a warning there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.checks.adapters import adapter_sizes, dropout_problems, sampler_problems
from cluster.checks.disk_space import disk_warnings
from cluster.checks.dry_run import learning_rate_warnings, load_model_facts, warnings_of
from cluster.checks.memory.card import local_gpus
from cluster.checks.memory.estimates import Derived, derive
from cluster.checks.memory.limits import memory_problems, memory_warnings
from cluster.checks.memory.shape import has_learner, has_samplers
from cluster.checks.model_loading import loading_problems
from cluster.checks.placement import placement_report, placement_warnings
from cluster.checks.preflight import (
    architecture_and_tokenizer_problems,
    gpu_problems,
    machine_problems,
    model_problems,
    optimizer_problems,
    tracker_problems,
)
from cluster.checks.problems import Problems
from cluster.checks.prompts import check_prompts
from cluster.checks.ray_cluster import address_of, stated_problems
from cluster.config import RunConfig
from cluster.config.rules import gpus_wanted
from verifiers.sandbox.executor import Executor, SandboxUnavailable
from verifiers.scorers import make_scorer

_PROGRAM_TASKS = ("humaneval", "mbpp")


@dataclass(frozen=True)
class Findings:
    """What was found about a run that can start: derived figures, nodes, prompts (dry runs only) and warnings."""

    derived: Derived
    placement: list[tuple[str, str]]
    prompts: list[str]
    warnings: list[str]


def check_start(
    config: RunConfig,
    *,
    dry_run: bool = False,
    earlier: Callable[[], Iterable[str]] | None = None,
    new_run: bool = True,
) -> Findings:
    """Refuse a run that cannot work.

    Args:
        config: the resolved configuration.
        dry_run: nothing will be started, so what only this machine lacks may be a warning.
        earlier: yields the problems with the run that is resumed or replayed.
        new_run: a run directory will be made; false for a resumed run and for an evaluation.

    Raises:
        UsageError: with one line per problem.
    """
    problems = Problems()
    doubtful: list[str] = []
    trains = new_run or earlier is not None  # else it evaluates, or imitates without a run
    learns = trains and has_learner(config)  # else it only records groups
    elsewhere = not runs_here(config)
    model_elsewhere = dry_run and (elsewhere or config.model.parameters_billions is not None)
    problems.add(lambda: machine_problems(config, new_run=new_run))
    problems.add(lambda: stated_problems(config))
    if trains:
        problems.add(lambda: tracker_problems(config))
        problems.add(lambda: dropout_problems(config))
    if learns or not has_samplers(config):
        problems.add(lambda: optimizer_problems(config))
    if address_of(config)[0] == "local":
        stated = dry_run and config.cluster.num_gpus is not None  # for a dry run of another machine's layout
        (doubtful if stated else problems.lines).extend(gpu_problems(config))
    facts = problems.of(lambda: load_model_facts(config, must_exist=not model_elsewhere))
    derived, placement, adapters = None, None, None
    loads = facts is not None  # else the error of the tokenizer would only repeat what is wrong, with another remedy
    if facts is not None:
        model, missing = facts
        doubtful += [missing] if missing else []
        if model is not None:
            loads = problems.add(lambda: architecture_and_tokenizer_problems(config))
            if loads and learns and has_samplers(config):  # an evaluation has a merged model
                problems.add(lambda: sampler_problems(config))
            if problems.add(lambda: model_problems(config)) and loads:
                loads = problems.add(lambda: loading_problems(Path(config.model.path)))
                adapters = problems.of(lambda: adapter_sizes(config)) if loads else None
        derived = derive(config, model, adapters)
        problems.lines += memory_problems(config, derived, model)
        doubtful += disk_warnings(config, derived) if learns else []
        placement = problems.of(lambda: placement_report(config, model))
        doubtful += placement_warnings(config, model) if placement is not None else []
    if has_samplers(config):  # else nothing is graded
        (doubtful if dry_run and elsewhere else problems.lines).extend(scorer_problem(config))
        (doubtful if elsewhere else problems.lines).extend(sandbox_problem(config))
    if earlier is not None:
        problems.add(earlier)
    prompts: list[str] = []
    # A start reads them next, and refuses what is wrong with them then.
    if has_samplers(config) and (dry_run or (trains and problems.lines)):
        found = problems.of(lambda: check_prompts(config, render=loads, model_elsewhere=model_elsewhere))
        prompts = found[0] if found else []
        doubtful += found[1] if found else []
    problems.refuse()
    assert derived is not None and placement is not None  # else there was a problem
    if learns:
        doubtful += learning_rate_warnings(config, derived.shape)
    doubtful += [*warnings_of(config, trains=learns), *memory_warnings(config, derived)]
    return Findings(derived, placement, prompts, doubtful)


def runs_here(config: RunConfig) -> bool:
    """Whether this machine would run the job: no cluster is named, and the GPUs of the layout are here."""
    return address_of(config)[0] == "local" and gpus_wanted(config) <= local_gpus()


def scorer_problem(config: RunConfig) -> list[str]:
    """Why the scorer cannot be made on this machine; empty where it can."""
    try:
        make_scorer(config.task)
    except ValueError as error:
        return [str(error)]
    return []


def sandbox_problem(config: RunConfig) -> list[str]:
    """Why programs cannot be run on this machine as ``task.sandbox`` asks; empty where they can, or there are none."""
    if config.task.name not in _PROGRAM_TASKS or config.task.reward is not None:
        return []
    with Executor(config.task.sandbox.model_copy(update={"servers": 1})) as executor:
        try:
            executor.start()
        except SandboxUnavailable as error:
            note = "" if runs_here(config) else ". That is so on this machine; the nodes that will run it may differ"
            return [f"{error}{note}"]
    return []
