"""The plan: what is trained, when verifiers are refreshed, what is deployed, and which contrasts are primary."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from benchmarks.planned.plan import FRESH_SEEDS, Part, Planned, Pool, Positive, RunCosts, read_plan

BASE, FIXED, REFRESHED = "base", "fixed", "refreshed"
CONTENDERS = (FIXED, REFRESHED)
FIRST, LAST, OWN = "first", "last", "own"
NO_VERIFIER = "task.scorer.kind=verdict"


class Deployment(NamedTuple):
    """A model and the verifier that picks among its answers.

    verifier: FIRST, that of the base model's samples; LAST, the last one of training; OWN, the first one trained
    further on all groups of the run.
    """

    model: str
    verifier: str
    title: str


DEPLOYMENTS = {
    "base": Deployment(BASE, FIRST, "base model, first verifier"),
    "fixed": Deployment(FIXED, FIRST, "fixed"),
    "fixed_then_refreshed": Deployment(FIXED, OWN, "fixed, then refreshed"),
    "refreshed": Deployment(REFRESHED, OWN, "refreshed"),
    "refreshed_last": Deployment(REFRESHED, LAST, "refreshed, last verifier of training"),
    "refreshed_first": Deployment(REFRESHED, FIRST, "refreshed, first verifier"),
}


class Contrast(Part):
    """A value of one deployment minus that of another. k: of best_of_k, which is Best-of-k with the verifier.

    accepted_wrong: share of the wrong answers to which the verifier gives a probability of 1/2 or more.
    """

    value: Literal["best_of_k", "accepted_wrong"]
    k: Positive | None = None
    contender: str
    against: str


class Costs(RunCosts):
    """thousand_answers: seconds of training a verifier, with all epochs, for each thousand answers that are read."""

    thousand_answers: float


class Segment(NamedTuple):
    """Steps `start` + 1 to `end` of a run, with the verifier that was trained after step `start`."""

    start: int
    end: int


class Plan(Planned):
    """An experiment on refreshing the verifier.

    Attributes:
        config: the YAML file that the overrides change. model: the base model.
        common: overrides of every run.
        samples: of the base model, to training prompts; they train the first verifier.
        epochs: of every training of a verifier.
        refreshes: steps after which the verifier of `refreshed` is trained further.
        ks: the values Best-of-k of the page. split, test: where they are measured.
        primary: contrasts that are tested, with Holm's correction; everything else is descriptive.
    """

    title: str
    config: str
    model: str
    common: tuple[str, ...]
    samples: Pool
    epochs: Positive
    seeds: tuple[int, ...]
    steps: Positive
    refreshes: tuple[Positive, ...]
    ks: tuple[Positive, ...]
    split: Literal["test", "validation"]
    test: Pool
    primary: tuple[Contrast, ...]
    costs: Costs

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for contrast in self.primary:
            for name in (contrast.contender, contrast.against):
                if name not in DEPLOYMENTS:
                    raise ValueError(f"primary names {name!r}; choose from {', '.join(DEPLOYMENTS)}")
            if (contrast.value == "best_of_k") != (contrast.k in self.ks):
                raise ValueError(f"primary: {contrast.value} with k = {contrast.k}; best_of_k needs one of ks, only it")
        if max(self.ks) > self.test.n:
            raise ValueError(f"test.n = {self.test.n} is less than the largest k, {max(self.ks)}; raise test.n")
        if not self.refreshes or list(self.refreshes) != sorted({*self.refreshes}) or self.refreshes[-1] >= self.steps:
            raise ValueError(f"refreshes = {list(self.refreshes)}: give rising steps below steps = {self.steps}")
        if len({*self.seeds}) < 2:
            raise ValueError("seeds: give two or more; the intervals cover repeated training")
        return self

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Contender and seed of every run; whole seeds first, so that a part is a smaller experiment."""
        return [(name, seed) for seed in self.seeds for name in CONTENDERS]

    def segments(self, contender: str) -> list[Segment]:
        ends = [*(self.refreshes if contender == REFRESHED else ()), self.steps]
        return [Segment(*pair) for pair in zip([0, *ends], ends, strict=False)]

    def verifiers(self, model: str) -> list[str]:
        """The verifiers that score the answers of a model."""
        return [one.verifier for one in DEPLOYMENTS.values() if one.model == model]

    def training_keys(self, seed: int) -> tuple[str, ...]:
        """Overrides of a training run, all but its directory, its last step and its verifier."""
        return (
            *(f"model.path={self.model}", *self.common, f"run.seed={seed}", "wandb.mode=disabled"),
            *("evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false"),
            *(f"checkpoint.every={self.refreshes[0]}", "checkpoint.keep=1"),
        )

    def evaluation_keys(self, seed: int) -> tuple[str, ...]:
        """Overrides of the evaluation of the models with this seed, all but the verifier."""
        pool = (f"evaluation.prompts={self.test.prompts}", f"evaluation.n={self.test.n}")
        return (*self.common, f"run.seed={FRESH_SEEDS + seed}", f"evaluation.split={self.split}", *pool)

    def sampling_keys(self) -> tuple[str, ...]:
        """Overrides of the samples for the first verifier."""
        pool = (f"evaluation.prompts={self.samples.prompts}", f"evaluation.n={self.samples.n}")
        return (*self.common, NO_VERIFIER, "evaluation.split=train", *pool)

    def verifier_keys(self, seed: int) -> tuple[str, ...]:
        """Overrides of the training of a verifier."""
        return (*self.common, NO_VERIFIER, f"run.seed={seed}")

    def answers(self, segment: Segment) -> int:
        """Answers that a run samples in these steps."""
        keys = dict(part.split("=", 1) for part in self.common)
        return (segment.end - segment.start) * int(keys["rollout.prompts_per_step"]) * int(keys["rollout.n"])

    def first_seconds(self) -> float:
        """Samples of the base model, and the first verifier."""
        per_thousand = self.costs.thousand_samples + self.costs.thousand_answers
        return 2 * self.costs.start + self.samples.samples / 1000 * per_thousand

    def run_seconds(self, contender: str) -> float:
        """One run with its verifiers and the evaluation of its model."""
        costs, segments = self.costs, self.segments(contender)
        trained_on = [*segments[:-1], Segment(0, self.steps)]  # the last one before deployment
        verifiers = sum(self.samples.samples + self.answers(one) for one in trained_on) / 1000 * costs.thousand_answers
        return len(segments) * costs.start + self.steps * costs.step + verifiers + self.evaluation_seconds()

    def evaluation_seconds(self) -> float:
        return self.costs.start + self.test.samples / 1000 * self.costs.thousand_samples


def load(path: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        ValueError: it does not describe a plan.
    """
    return Plan.model_validate(read_plan(path))
