"""TensorBoard as a tracker: event files in `tensorboard/` of the run directory. The only file that knows tensorboardX.

TensorBoard draws every curve over one step number, so each axis has its own folder, which TensorBoard shows as a run:
`train`, `rollout`, `evaluation` over optimizer steps and batches, and `time` over seconds. A resumed run begins new
files with the step from which TensorBoard hides what earlier files hold.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.records.metric_names import EVALUATION_STEP, ROLLOUT_STEP, TIME, TRAIN_STEP
from cluster.telemetry.tracker import Tracker
from cluster.telemetry.tracker_process import DiskProbe, main

FLUSH_SECONDS = 1  # what a killed helper may lose; its rows are sent again
FOLDERS = {TRAIN_STEP: "train", ROLLOUT_STEP: "rollout", EVALUATION_STEP: "evaluation", TIME: "time"}


class TensorBoardWriter(Tracker):
    """Event files of one run.

    Args:
        run_directory: holds them in `tensorboard/`.
        first_step, elapsed_s: optimizer steps and seconds that a resumed run continues from; 0 for a new run.
    """

    name = "TensorBoard"
    module = "cluster.telemetry.tensorboard_writer"

    def __init__(self, run_directory: str | Path, *, first_step: int = 0, elapsed_s: float = 0.0) -> None:
        super().__init__()
        self.directory = Path(run_directory).absolute() / "tensorboard"
        self._purge = {TIME: int(elapsed_s) + 1} | dict.fromkeys(
            (TRAIN_STEP, ROLLOUT_STEP, EVALUATION_STEP), first_step + 1
        )
        self._resumed = first_step > 0
        self._begin()

    def describe(self) -> str:
        if self._why_off:
            return f"TensorBoard: off ({self._why_off})"
        return f"TensorBoard: look at it with: tensorboard --logdir {shlex.quote(str(self.directory))}"

    def _start_arguments(self) -> dict[str, Any]:
        hides = self._resumed and not self._restarted  # a replaced helper continues the files of this process
        return {"directory": str(self.directory), "purge": self._purge if hides else {}}

    def _kept(self) -> str:
        return f"what TensorBoard has is in {self.directory}"


class _Session:
    """The helper's side: a writer for each axis."""

    def start(self, directory: str, purge: Mapping[str, int]) -> dict[str, str]:
        from tensorboardX import SummaryWriter

        self._writers = {
            axis: SummaryWriter(f"{directory}/{folder}", purge_step=purge.get(axis), flush_secs=FLUSH_SECONDS)
            for axis, folder in FOLDERS.items()
        }
        self._probe = DiskProbe(Path(directory))
        return {}

    def log(self, row: Mapping[str, Any]) -> None:
        axis = next(axis for axis in FOLDERS if axis in row)
        for name, value in row.items():
            if name != axis:
                self._writers[axis].add_scalar(name.replace("@", "_at_"), value, int(row[axis]))
        self.check()

    def check(self) -> None:
        self._probe.check()

    def finish(self, exit_code: int) -> None:
        self._probe.check(now=True)
        for writer in self._writers.values():
            writer.close()


if __name__ == "__main__":
    main(_Session())
