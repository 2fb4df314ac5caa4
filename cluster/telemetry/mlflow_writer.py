"""MLflow as a tracker: the only file that knows MLflow.

A metric is logged with the value of its axis as MLflow's step: optimizer steps, batches, or seconds. MLflow cannot take
back what it logged. So if a resumed run goes back to a step before the last one that MLflow has, its MLflow run is
deleted (MLflow keeps deleted runs until `mlflow gc`), and a new one begins with the rows of metrics.jsonl up to this
step.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.records.metric_names import AXES, EVALUATION_STEP, TRAIN_STEP, find_metric
from cluster.records.run_directory import read_metrics
from cluster.telemetry.tracker import Tracker
from cluster.telemetry.tracker_process import DiskProbe, main

if TYPE_CHECKING:
    from cluster.config.settings import MlflowSettings

RUN_ID = "run_id.txt"
_LONGEST_PARAMETER = 500  # characters
_BATCH = 500  # metrics in one call; MLflow takes 1,000
_ENDED = {0: "FINISHED", 130: "KILLED"}  # by exit status


class MlflowWriter(Tracker):
    """One MLflow run.

    Args:
        settings: section `mlflow`; without a `tracking_uri` MLflow's files are in `mlflow/` of the run directory.
        run_directory: also keeps the id of the MLflow run, which a resumed run continues.
        config: resolved configuration, logged as parameters.
        name: of the run.
        first_step: optimizer steps that a resumed run continues from; 0 for a new run.
    """

    name = "MLflow"
    module = "cluster.telemetry.mlflow_writer"
    environment = {
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }

    def __init__(
        self,
        settings: MlflowSettings,
        run_directory: str | Path,
        *,
        config: Mapping[str, Any],
        name: str,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        root = Path(run_directory).absolute()
        self.uri = settings.tracking_uri or (root / "mlflow" / "store").as_uri()
        self._start_with = {
            "uri": self.uri,
            "experiment": settings.experiment,
            "run_name": name,
            "run_directory": str(root),
            "parameters": dict(_flat(config)),
        }
        self._first_step = first_step
        self._begin()

    def describe(self) -> str:
        if self._why_off:
            return f"MLflow: off ({self._why_off})"
        package = " (needs the package mlflow, not only mlflow-skinny)" if self.uri.startswith("file:") else ""
        return f"MLflow: {self.uri}. Look at it with: {self._view_command()}{package}"

    def _view_command(self) -> str:
        if not self.uri.startswith("file:"):
            return self.uri
        return f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    def _start_arguments(self) -> dict[str, Any]:
        return self._start_with | {"first_step": None if self._restarted else self._first_step}

    def _kept(self) -> str:
        return f"what MLflow has is at {self.uri}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted keys and values as text."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)[:_LONGEST_PARAMETER]


def _by_axis(row: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """As `split_by_axis`, also for strategies of plugins, which this process has not loaded."""
    parts: dict[str, dict[str, Any]] = {}
    for name in row.keys() - AXES.keys():
        axis = EVALUATION_STEP if name.startswith("eval/") else find_metric(name).axis
        parts.setdefault(axis, {axis: row[axis]})[name] = row[name]
    return parts.values()


class _Session:
    """The helper's side: one MLflow run."""

    def start(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        run_directory: str,
        parameters: Mapping[str, str],
        first_step: int | None,
    ) -> dict[str, str]:
        from mlflow import MlflowClient

        self._client, self._experiment = MlflowClient(tracking_uri=uri), experiment
        self._name, self._parameters = run_name, parameters
        kept = Path(run_directory) / "mlflow"
        kept.mkdir(exist_ok=True)
        self._probe, self._file = DiskProbe(kept), kept / RUN_ID
        self._run_id = self._file.read_text().strip() if self._file.exists() else ""
        if not self._run_id:
            self._create()
        elif first_step is not None and self._last_step() > first_step:
            self._client.delete_run(self._run_id)
            self._create()
            self._log([part for row in read_metrics(run_directory) for part in _by_axis(row)])
        else:
            self._client.update_run(self._run_id, status="RUNNING")
        return {"run_id": self._run_id}

    def _create(self) -> None:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._run_id = self._client.create_run(experiment, run_name=self._name).info.run_id
        params = [Param(key, value) for key, value in self._parameters.items()]
        for first in range(0, len(params), 100):  # MLflow takes 100 in one call
            self._client.log_batch(self._run_id, params=params[first : first + 100])
        self._file.write_text(self._run_id)

    def _last_step(self) -> int:
        """The last optimizer step that MLflow has."""
        return max((point.step for point in self._client.get_metric_history(self._run_id, TRAIN_STEP)), default=0)

    def log(self, row: Mapping[str, Any]) -> None:
        self._log([row])
        self.check()

    def _log(self, rows: list[Any]) -> None:
        from mlflow.entities import Metric

        now, metrics = int(time.time() * 1000), []
        for row in rows:
            axis = next(axis for axis in AXES if axis in row)
            logged = row if axis == TRAIN_STEP else {name: value for name, value in row.items() if name != axis}
            step = int(row[axis])
            metrics += [Metric(name.replace("@", "_at_"), float(value), now, step) for name, value in logged.items()]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _BATCH])

    def check(self) -> None:
        self._probe.check()

    def finish(self, exit_code: int) -> None:
        self._probe.check(now=True)
        with contextlib.suppress(KeyError):
            self._client.set_terminated(self._run_id, _ENDED.get(exit_code, "FAILED"))


if __name__ == "__main__":
    main(_Session())
