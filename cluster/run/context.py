"""What a job has decided and opened before its first actor starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.fleet.learner_group import Origin
from cluster.config import RunConfig
from cluster.records.checkpoints import Checkpoint, Checkpoints
from cluster.records.config_changes import Change
from cluster.records.run_directory import RunDirectory
from cluster.telemetry.dashboards import Dashboards
from cluster.telemetry.health import Health
from cluster.telemetry.incidents import Incidents
from verifiers.text.rendering import TokenizedPrompt
from verifiers.text.tokenizer_class import AUTO


@dataclass(frozen=True)
class RunContext:
    """Configuration, data and outputs of one run.

    config: resolved. directory, dashboards: where results and metrics go. training, held_out: prompts with their token
    ids. start: the checkpoint to resume from. rollout_only: record groups and train nothing. replay: run directory
    whose recorded groups are trained on; then nothing is sampled. tokenizer: the name of its class in transformers.
    changes: the settings that this resume changes.
    """

    config: RunConfig
    directory: RunDirectory
    dashboards: Dashboards
    training: Sequence[TokenizedPrompt] = ()
    held_out: Sequence[TokenizedPrompt] = ()
    start: Checkpoint | None = None
    rollout_only: bool = False
    replay: Path | None = None
    tokenizer: str = AUTO
    changes: tuple[Change, ...] = ()

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.directory.checkpoints)

    @cached_property
    def incidents(self) -> Incidents:
        return Incidents(self.directory, self.dashboards)

    @cached_property
    def health(self) -> Health:
        return Health(self.config, self.incidents.warn, self.directory.path)

    @property
    def first_step(self) -> int:
        """Optimizer steps that were done before this process."""
        return self.start.step if self.start else 0

    def origin(self) -> Origin:
        """Where new learner ranks begin: at the newest checkpoint."""
        newest = self.checkpoints.latest().checkpoint
        return (newest.step, newest.path) if newest else (0, None)
