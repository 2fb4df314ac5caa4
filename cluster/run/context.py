"""What a job has decided and opened before its first actor starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.fleet.learner_group import Origin
from cluster.config import RunConfig
from cluster.evaluation.evaluate import EvaluationPrompt
from cluster.records.checkpoints import Checkpoint, Checkpoints
from cluster.records.run_directory import RunDirectory
from cluster.telemetry.dashboards import Dashboards
from cluster.telemetry.health import Health
from cluster.telemetry.incidents import Incidents


@dataclass(frozen=True)
class RunContext:
    """Configuration, data and outputs of one run.

    config: resolved. directory, checkpoints, dashboards, incidents, health: where results, metrics and warnings go.
    training, held_out: prompts with their token ids. start: the checkpoint to resume from. rollout_only: record groups
    and train nothing. replay: run directory whose recorded groups are trained on; then nothing is sampled.
    """

    config: RunConfig
    directory: RunDirectory
    checkpoints: Checkpoints
    dashboards: Dashboards
    incidents: Incidents
    health: Health
    training: Sequence[EvaluationPrompt] = ()
    held_out: Sequence[EvaluationPrompt] = ()
    start: Checkpoint | None = None
    rollout_only: bool = False
    replay: Path | None = None

    @property
    def first_step(self) -> int:
        """Optimizer steps that were done before this process."""
        return self.start.step if self.start else 0

    def origin(self) -> Origin:
        """Where new learner ranks begin: at the newest checkpoint."""
        newest = self.checkpoints.latest().checkpoint
        return (newest.step, newest.path) if newest else (0, None)


@contextmanager
def open_context(
    config: RunConfig,
    directory: RunDirectory,
    *,
    training: Sequence[EvaluationPrompt] = (),
    held_out: Sequence[EvaluationPrompt] = (),
    start: Checkpoint | None = None,
    rollout_only: bool = False,
    replay: Path | None = None,
) -> Iterator[RunContext]:
    """Open the dashboards of a run while the body runs. For the arguments see :class:`RunContext`."""
    with Dashboards(config, directory, first_step=start.step if start else 0) as dashboards:
        incidents = Incidents(directory, dashboards)
        yield RunContext(
            config=config,
            directory=directory,
            checkpoints=Checkpoints(directory.checkpoints),
            dashboards=dashboards,
            incidents=incidents,
            health=Health(config, incidents.warn, directory.path),
            training=training,
            held_out=held_out,
            start=start,
            rollout_only=rollout_only,
            replay=replay,
        )
