"""The trackers that ``tracking`` names, started for one run."""

from __future__ import annotations

from cluster.config import RunConfig
from cluster.records.run_directory import RunDirectory
from cluster.telemetry.mlflow_writer import MlflowWriter
from cluster.telemetry.tensorboard_writer import TensorBoardWriter
from cluster.telemetry.tracker import Tracker
from cluster.telemetry.wandb_writer import WandbWriter


def make_trackers(config: RunConfig, directory: RunDirectory, first_step: int) -> list[Tracker]:
    """Start each of them once, in the order of the list.

    Args:
        first_step: optimizer steps that a resumed run continues from; 0 for a new run.

    Raises:
        WandbError: wandb must be online and cannot start.
    """
    found: list[Tracker] = []
    name, tree = directory.path.name, config.to_mapping()
    for kind in dict.fromkeys(config.tracking):
        if kind == "wandb":
            found.append(WandbWriter(config.wandb, directory.path, config=tree, name=name))
        elif kind == "tensorboard":
            found.append(TensorBoardWriter(directory.path, first_step=first_step, elapsed_s=directory.elapsed_s()))
        else:
            found.append(MlflowWriter(config.mlflow, directory.path, config=tree, name=name, first_step=first_step))
    return found
