"""The directory that travels to the cluster with a submitted job: packages, resolved configuration, model, task data.

A staged copy rather than the working directory itself: runs/, .venv and caches would make it gigabytes, and the job
needs bonrl's entry points, without which vLLM does not find the weight-transfer back-end there.
"""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import yaml

from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.preflight import OUR_PACKAGES, ROOT

CONFIG_NAME = "job.yaml"
MAX_MIB = 256  # Ray keeps the package in the memory of the head node
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def stage(config: RunConfig, directory: Path) -> int:
    """Fill `directory` with what the job needs; the size in bytes.

    `model.path` and `task.path` are copied when they are relative; absolute ones must exist on the cluster.

    Raises:
        UsageError: a relative path that is not here or leads out of the working directory, or too much data.
    """
    for name in OUR_PACKAGES:
        shutil.copytree(ROOT / name, directory / name, ignore=_IGNORED)
    _copy_relative("model.path", config.model.path, directory)
    if config.task.path is not None:
        _copy_relative("task.path", config.task.path, directory)
    (directory / CONFIG_NAME).write_text(yaml.safe_dump(config.to_mapping(), sort_keys=False), encoding="utf-8")
    _write_entry_points(directory)
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _copy_relative(key: str, path: str, directory: Path) -> None:
    if os.path.isabs(path):
        return
    source = Path(path)
    if ".." in source.parts:
        raise UsageError(
            f"{key} = {path} leads out of the working directory, which is what travels to the cluster; give "
            "an absolute path that exists there"
        )
    if not source.is_dir():
        raise UsageError(
            f"{key} = {path}: there is no such directory to send along; give one, or an absolute path that "
            "exists on the cluster"
        )
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    if size > MAX_MIB * 2**20:
        raise UsageError(
            f"{key} = {path} holds {size // 2**20} MiB; at most {MAX_MIB} travel with a job. Put it on "
            "storage that every node of the cluster sees and give its absolute path"
        )
    shutil.copytree(source, directory / source, dirs_exist_ok=True, ignore=_IGNORED)


def _write_entry_points(directory: Path) -> None:
    """The installed distribution's metadata as an egg-info, which importlib.metadata reads from any sys.path entry."""
    distribution = metadata.distribution("bonrl")
    target = directory / "bonrl.egg-info"
    target.mkdir()
    (target / "PKG-INFO").write_text(
        f"Metadata-Version: 2.1\nName: bonrl\nVersion: {distribution.version}\n", encoding="utf-8"
    )
    (target / "entry_points.txt").write_text(distribution.read_text("entry_points.txt") or "", encoding="utf-8")
