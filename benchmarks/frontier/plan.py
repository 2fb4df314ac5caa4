"""The plan of a comparison: what is trained, how it is tuned, and which contrasts are primary."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from benchmarks.frontier.counts import BASE
from benchmarks.planned.plan import FRESH_SEEDS, Contrast, Part, Planned, Pool, Positive, RunCosts, read_plan

Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Contender(Part):
    """One side of a comparison.

    Attributes:
        title: on the page. overrides: of the configuration.
        rates: learning rates of this contender alone, in place of the plan's.
    """

    title: str
    overrides: tuple[str, ...]
    rates: Rates | None = Field(default=None, exclude_if=lambda rates: rates is None)  # digests of older plans stay


class Plan(Planned):
    """A comparison along training.

    Attributes:
        config: the YAML file that the overrides change. model: the base model.
        common: overrides of every run. every: optimizer steps between evaluations.
        ks: the metrics pass@k; each contender is tuned for each.
        validation, test: the pools of the choices and of the results.
        primary: contrasts of pass@k, both sides tuned for it, which are tested with Holm's correction; everything else
            is descriptive. `against: base` is the base model at its best temperature.
        note: printed below the primary contrasts; it may be added later.
    """

    title: str
    config: str
    model: str
    common: tuple[str, ...]
    contenders: dict[str, Contender]
    rates: Rates
    seeds: tuple[int, ...]
    steps: Positive
    every: Positive
    ks: tuple[Positive, ...]
    temperatures: tuple[Annotated[float, Field(gt=0)], ...]
    validation: Pool
    test: Pool
    primary: tuple[Contrast, ...]
    note: str = ""
    costs: RunCosts

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if BASE in self.contenders:
            raise ValueError(f"contenders: {BASE!r} is the name of the base model; choose another one")
        for contrast in self.primary:
            for name, known in ((contrast.contender, [*self.contenders]), (contrast.against, [*self.contenders, BASE])):
                if name not in known:
                    raise ValueError(f"primary names the contender {name!r}, which is not in contenders")
            if contrast.k not in self.ks:
                raise ValueError(f"primary names k = {contrast.k}, which is not in ks")
        for name, pool in (("validation", self.validation), ("test", self.test)):
            if max(self.ks) > pool.n:
                raise ValueError(f"{name}.n = {pool.n} is less than the largest k, {max(self.ks)}; raise {name}.n")
        if self.steps % self.every:
            raise ValueError(f"steps = {self.steps} is not a multiple of every = {self.every}")
        if len(self.seeds) < 2:
            raise ValueError("seeds: give two or more; the intervals cover repeated training")
        return self

    @property
    def runs(self) -> list[tuple[str, float, int]]:
        """Contender, rate and seed of every training run; whole seeds first, so that a part is a smaller experiment."""
        return [
            (name, rate, seed) for seed, name in product(self.seeds, self.contenders) for rate in self.rates_of(name)
        ]

    def rates_of(self, contender: str) -> tuple[float, ...]:
        """The learning rates that a contender is trained with."""
        return self.contenders[contender].rates or self.rates

    @property
    def tunes_rate(self) -> bool:
        """Whether any contender has a choice."""
        return any(len(self.rates_of(name)) > 1 for name in self.contenders)

    @property
    def selected_k(self) -> int:
        """k of `evaluation.keep_best`; the best steps for the other ks are found by the same rule."""
        return self.ks[len(self.ks) // 2]

    @property
    def tunes_temperature(self) -> bool:
        """Whether there is a choice; the only temperature of a plan needs no samples of the trained models."""
        return len(self.temperatures) > 1

    def training_keys(self, contender: str, rate: float, seed: int) -> tuple[str, ...]:
        """Overrides of a training run, all but its directory."""
        return (
            *(f"model.path={self.model}", *self.common, *self.contenders[contender].overrides),
            *(f"run.seed={seed}", f"run.steps={self.steps}", f"learner.learning_rate={rate}", "wandb.mode=disabled"),
            *(f"checkpoint.every={self.every}", f"checkpoint.keep={self.steps // self.every}"),
            *(f"evaluation.every={self.every}", "evaluation.at_start=false", "evaluation.split=validation"),
            *(f"evaluation.prompts={self.validation.prompts}", f"evaluation.n={self.validation.n}"),
            f"evaluation.keep_best=pass_at_k@{self.selected_k}",
        )

    def evaluation_keys(self, split: str, seed: int) -> tuple[str, ...]:
        """Overrides of an evaluation after training of the run with this seed. The objective is not used."""
        pool = self.test if split == "test" else self.validation
        return (
            *(*self.common, "objective.strategy=mean", "objective.k=1", f"run.seed={FRESH_SEEDS + seed}"),
            *(f"evaluation.split={split}", f"evaluation.prompts={pool.prompts}", f"evaluation.n={pool.n}"),
        )

    @property
    def answers_per_step(self) -> tuple[int, int]:
        """Prompts of an optimizer step, and answers to each."""
        keys = dict(part.split("=", 1) for part in self.common)
        return int(keys["rollout.prompts_per_step"]), int(keys["rollout.n"])

    def training_seconds(self) -> float:
        """One training run, with its evaluations."""
        evaluations = self.steps // self.every * self.validation.samples
        return self.costs.start + self.steps * self.costs.step + evaluations / 1000 * self.costs.thousand_samples

    def evaluation_seconds(self, samples: int) -> float:
        """One evaluation of a model."""
        return self.costs.start + samples / 1000 * self.costs.thousand_samples


def load(path: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        ValueError: it does not describe a plan.
    """
    return Plan.model_validate(read_plan(path))
