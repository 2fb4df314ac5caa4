"""Sections of a plan, what identifies it, and the checks before anything runs."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from cluster.config import ConfigError, load_config

FRESH_SEEDS = 1000  # added to the seed of a run for evaluations after training, so that the samples are new
Positive = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    """A section of the plan; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Pool(Part):
    """An evaluation: number of prompts, samples per prompt."""

    prompts: Positive
    n: Positive

    @property
    def samples(self) -> int:
        return self.prompts * self.n


class Contrast(Part):
    """The value at k of one contender minus that of another."""

    contender: str
    against: str
    k: Positive


class RunCosts(Part):
    """Measured seconds of one run on one core, with as many runs at a time as `jobs`."""

    start: float
    step: float
    thousand_samples: float
    jobs: Positive


class Planned(Part):
    """A plan. `costs` only estimates hours and `note` only explains, so these keys decide no result."""

    @property
    def digest(self) -> str:
        """Identifies everything that decides a result."""
        return hashlib.sha256(self.model_dump_json(exclude={"costs", "note"}).encode()).hexdigest()[:16]


def read_plan(path: Path) -> object:
    """The content of the YAML file of a plan."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def require_committed(path: Path) -> None:
    """RuntimeError unless git holds this version of the plan: the test split comes after the plan."""
    command = ["git", "status", "--porcelain", "--ignored", "--", path.name]
    found = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=60)
    if found.returncode or found.stdout:
        raise RuntimeError(f"{path} is not committed: commit the plan before the test split is used")


def check_overrides(config: str, sets: Sequence[Sequence[str]], extra: Sequence[str]) -> None:
    """Refuse what would fail after hours, or would measure another plan.

    Args:
        config: the YAML file that the overrides change.
        sets: overrides of every kind of run of the plan.
        extra: overrides for this machine, which come last.

    Raises:
        ValueError: a set is an impossible configuration, or `extra` sets a key of the plan.
    """
    planned = {_key(one) for keys in sets for one in keys}
    if changed := [one for one in extra if _key(one) in planned]:
        raise ValueError(f"--set {' '.join(changed)}: the plan sets this; write another plan to change it")
    for keys in sets:
        try:
            load_config(config, [*keys, *extra])
        except ConfigError as error:
            raise ValueError(f"{' '.join(keys)}: {error}") from error


def _key(override: str) -> str:
    return override.split("=", 1)[0]
