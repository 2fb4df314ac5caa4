"""The directory that travels to the cluster with a submitted job: packages, resolved configuration, model, task data.

A staged copy is sent instead of the working directory, for two reasons: the working directory may have gigabytes
(runs/, .venv, caches), and it lacks bonrl's entry points, by which vLLM on the cluster finds the weight-transfer
back-end.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from cluster.checks.preflight import OUR_PACKAGES, ROOT
from cluster.config import RunConfig
from cluster.config.input_paths import input_paths, user_code, value_at, with_values, without_patterns
from cluster.errors import UsageError
from cluster.records.input_files import files_below
from cluster.records.software import GIT_FILE, git_state
from verifiers.user_code import files_of

CONFIG_NAME = "job.yaml"
_MOVED = "user_code"  # folder of the package for user code from outside of the working directory
_SHOWN = 5  # of the largest files, in the message about a package that is too large
_COMPRESSIBLE = 10  # a package this many times the limit is refused without a try at compressing it


def stage(config: RunConfig | Mapping[str, Any], directory: Path, extra: Mapping[str, str] | None = None) -> int:
    """Fill `directory` with what the job needs; the size in bytes.

    Relative paths of the configuration are copied; absolute ones must exist on the cluster. User code is copied
    with the other Python files and packages in its directory. Data files that it reads are copied if task.options
    names them.

    Args:
        config: of the job, written to CONFIG_NAME. A nested mapping holds what is known of a configuration that the
            job reads on the cluster: what it names is copied to the same relative path.
        extra: further relative paths to pack, by their names in messages.

    Raises:
        UsageError: a relative path that is not here or leads out of the working directory, or too much data.
    """
    files: dict[Path, Path] = {}  # where each goes, below `directory`
    for name in OUR_PACKAGES:
        files |= _below(ROOT / name, Path(name))
    for key, path in {**input_paths(config), **(extra or {})}.items():
        files |= _relative(key, path)
    code, moved = _user_code(config)
    if not isinstance(config, RunConfig):
        code = _in_place(config, code, moved)
    files |= code
    _check_size(files, upload_limit())
    for target, source in files.items():
        (directory / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, directory / target)  # with the mode, by which a script is executable
    if isinstance(config, RunConfig):
        tree = without_patterns(with_values(config.to_mapping(), moved))
        (directory / CONFIG_NAME).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    (directory / GIT_FILE).write_text(json.dumps(git_state()), encoding="utf-8")
    _write_entry_points(directory)
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def upload_limit() -> int:
    """The largest request that Ray's job server takes, in bytes; no variable raises it."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE  # the job server's own; not public

    return int(DASHBOARD_CLIENT_MAX_SIZE)


def _below(source: Path, target: Path) -> dict[Path, Path]:
    """Target -> source of one file, or of every file below a directory."""
    return {target / name: file for name, file in files_below(source).items()}


def _user_code(config: RunConfig | Mapping[str, Any]) -> tuple[dict[Path, Path], dict[str, str]]:
    """Target -> source of all user code, and by key the reference that is right in the package where it changes.

    Files in the working directory keep their place, so that code still finds neighboring files by path.
    """
    files: dict[Path, Path] = {}
    moved: dict[str, str] = {}
    folders: dict[Path, Path] = {}  # of code outside; one copy of each, so that nothing is loaded twice
    for key, reference in user_code(config).items():
        if reference.is_file and not reference.path.is_file():
            if reference.path.is_absolute():
                continue  # it is only on the cluster
            raise UsageError(_not_here(key, reference.source))
        found = files_of(reference, packages=True)
        if found is None:
            continue  # an installed module
        file, sources = found
        beginning = next(source for target, source in sources.items() if target == file).parents[len(file.parts) - 1]
        here = Path.cwd().resolve()
        if not reference.is_file:
            folder = Path()
        elif beginning.is_relative_to(here):
            folder = beginning.relative_to(here)
        else:
            folder = folders.setdefault(beginning, Path(_MOVED) / str(len(folders)))
        # The packages of bonrl itself travel already; a checkout may be the working directory.
        files |= {folder / target: source for target, source in sources.items() if target.parts[0] not in OUR_PACKAGES}
        if reference.is_file:
            moved[key] = f"{folder / file}:{reference.name}" if reference.name else str(folder / file)
    return files, moved


def _in_place(tree: Mapping[str, Any], code: dict[Path, Path], moved: Mapping[str, str]) -> dict[Path, Path]:
    """The user code in the working directory: a reference that the job reads on the cluster cannot be changed."""
    outside = {target for target in code if target.parts[0] == _MOVED and target.parts[1].isdigit()}
    for key, reference in moved.items():
        given = value_at(tree, key)
        if Path(reference.rpartition(":")[0] or reference) in outside and not Path(given).expanduser().is_absolute():
            raise UsageError(
                f"{key} = {given} is outside of the working directory, so an override of a run cannot send it along; "
                "copy it into the working directory, or give an absolute path that exists on the cluster"
            )
    return {target: source for target, source in code.items() if target not in outside}


def _relative(key: str, path: str) -> dict[Path, Path]:
    """The files of a relative path; none of an absolute one."""
    if os.path.isabs(path):
        return {}
    source = Path(path)
    if ".." in source.parts:
        raise UsageError(
            f"{key} = {path} is outside of the working directory, and only that is sent to the cluster; give "
            "an absolute path that exists there"
        )
    if not source.exists():
        raise UsageError(_not_here(key, path))
    return _below(source, source)


def _not_here(key: str, path: str) -> str:
    return (
        f"{key} = {path}: there is no such file or directory to send along; give an existing path, or an "
        "absolute path that exists on the cluster"
    )


def _check_size(files: Mapping[Path, Path], limit: int) -> None:
    sizes = {target: source.stat().st_size for target, source in files.items()}
    total = sum(sizes.values())
    if total <= limit or (total <= _COMPRESSIBLE * limit and _compressed_size(files.values(), limit) <= limit):
        return
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:_SHOWN]
    listed = ", ".join(f"{target} {sizes[target] / 2**20:.1f} MiB" for target in largest)
    raise UsageError(
        f"the job's package would hold {total / 2**20:.1f} MiB, and Ray's job server takes at most "
        f"{limit / 2**20:.0f} MiB (compressed). The largest files: {listed}. Put models and data on storage that every "
        "node of the cluster sees and give their absolute paths (model.path, task.path, ...)"
    )


def _compressed_size(files: Iterable[Path], limit: int) -> int:
    """Bytes of the files as Ray's archive compresses them; the counting stops above `limit`."""
    size = 0
    for file in files:
        packer = zlib.compressobj(wbits=-15)
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                size += len(packer.compress(chunk))
                if size > limit:
                    return size
        size += len(packer.flush())
    return size


def _write_entry_points(directory: Path) -> None:
    """The installed distribution's metadata as an egg-info, which importlib.metadata reads from any sys.path entry."""
    distribution = metadata.distribution("bonrl")
    target = directory / "bonrl.egg-info"
    target.mkdir()
    (target / "PKG-INFO").write_text(
        f"Metadata-Version: 2.1\nName: bonrl\nVersion: {distribution.version}\n", encoding="utf-8"
    )
    (target / "entry_points.txt").write_text(distribution.read_text("entry_points.txt") or "", encoding="utf-8")
