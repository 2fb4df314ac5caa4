"""The plan: what is trained, measured and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from benchmarks.planned.plan import Part, Planned, Pool, Positive, read_plan

PLAN = Path(__file__).with_name("plan.yaml")
BEFORE, AFTER = "before", "after"
TaskName = Literal["mbpp", "humaneval"]


class FineTuning(Part):
    """Arguments of `bonrl sft`."""

    keys: tuple[str, ...]
    steps: Positive
    batch_size: Positive
    learning_rate: float = Field(gt=0)


class Contrast(Part):
    """pass@k on a task after fine-tuning, minus before."""

    task: TaskName
    k: Positive


class Plan(Planned):
    """See ``plan.yaml``."""

    title: str
    config: str
    model: str
    common: tuple[str, ...]
    fine_tuning: FineTuning
    temperature: float = Field(gt=0)
    ks: tuple[Positive, ...]
    tests: dict[TaskName, Pool]
    primary: tuple[Contrast, ...]


def load(path: Path = PLAN) -> Plan:
    """Read and check a plan."""
    return Plan.model_validate(read_plan(path))
