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
from cluster.config.gpu_rules import gpus_wanted
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
    trains = new_run or earlier is not None  # else it evaluates, or imitates without a run
    start = _Start(config, dry_run, trains)
    start.check_settings(new_run)
    model_elsewhere = dry_run and (start.elsewhere or config.model.parameters_billions is not None)
    model, loads = start.check_model(model_elsewhere)
    start.check_graders()
    if earlier is not None:
        start.problems.add(earlier)
    prompts = start.check_prompts(render=loads, model_elsewhere=model_elsewhere)
    start.problems.refuse()
    assert model is not None  # else there was a problem
    derived, placement = model
    if start.learns:
        start.doubtful += learning_rate_warnings(config, derived.shape)
    start.doubtful += [*warnings_of(config, trains=start.learns), *memory_warnings(config, derived)]
    return Findings(derived, placement, prompts, start.doubtful)


class _Start:
    """The checks of one start, with the problems and the warnings so far."""

    def __init__(self, config: RunConfig, dry_run: bool, trains: bool) -> None:
        self.config, self.dry_run, self.trains = config, dry_run, trains
        self.problems = Problems()
        self.doubtful: list[str] = []
        self.learns = trains and has_learner(config)  # else it only records groups
        self.elsewhere = not runs_here(config)

    def check_settings(self, new_run: bool) -> None:
        """Check what needs neither the model nor the task."""
        config = self.config
        self.problems.add(lambda: machine_problems(config, new_run=new_run))
        self.problems.add(lambda: stated_problems(config))
        if self.trains:
            self.problems.add(lambda: tracker_problems(config))
            self.problems.add(lambda: dropout_problems(config))
        if self.learns or not has_samplers(config):
            self.problems.add(lambda: optimizer_problems(config))
        if address_of(config)[0] == "local":
            stated = self.dry_run and config.cluster.num_gpus is not None  # a dry run of another machine's layout
            self._lines(doubtful=stated).extend(gpu_problems(config))

    def check_model(self, elsewhere: bool) -> tuple[tuple[Derived, list[tuple[str, str]]] | None, bool]:
        """Check the model and what depends on its size.

        Args:
            elsewhere: whether the model may be on other machines only.

        Returns:
            The derived figures and the nodes, None if there is a problem; and whether the tokenizer can be loaded, as
            far as is known. If not, its error would only repeat the problem, with another remedy.
        """
        config = self.config
        facts = self.problems.of(lambda: load_model_facts(config, must_exist=not elsewhere))
        if facts is None:
            return None, False
        model, missing = facts
        self.doubtful += [missing] if missing else []
        loads, adapters = True, None
        if model is not None:
            loads = self.problems.add(lambda: architecture_and_tokenizer_problems(config))
            if loads and self.learns and has_samplers(config):  # an evaluation has a merged model
                self.problems.add(lambda: sampler_problems(config))
            if self.problems.add(lambda: model_problems(config)) and loads:
                loads = self.problems.add(lambda: loading_problems(Path(config.model.path)))
                adapters = self.problems.of(lambda: adapter_sizes(config)) if loads else None
        derived = derive(config, model, adapters)
        self.problems.lines += memory_problems(config, derived, model)
        self.doubtful += disk_warnings(config, derived) if self.learns else []
        placement = self.problems.of(lambda: placement_report(config, model))
        if placement is None:
            return None, loads
        self.doubtful += placement_warnings(config, model)
        return (derived, placement), loads

    def check_graders(self) -> None:
        """Check the scorer and the sandbox on this machine."""
        if has_samplers(self.config):  # else nothing is graded
            self._lines(doubtful=self.dry_run and self.elsewhere).extend(scorer_problem(self.config))
            self._lines(doubtful=self.elsewhere).extend(sandbox_problem(self.config))

    def check_prompts(self, *, render: bool, model_elsewhere: bool) -> list[str]:
        """The lines about the prompts. A start reads the prompts next, and refuses then what is wrong with them."""
        if not has_samplers(self.config) or not (self.dry_run or (self.trains and self.problems.lines)):
            return []
        found = self.problems.of(lambda: check_prompts(self.config, render=render, model_elsewhere=model_elsewhere))
        self.doubtful += found[1] if found else []
        return found[0] if found else []

    def _lines(self, *, doubtful: bool) -> list[str]:
        """Where a finding goes that may be different on the machines that will run the job."""
        return self.doubtful if doubtful else self.problems.lines


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
