"""Checkpoints on disk: complete or absent, never half written.

    checkpoints/.tmp-step-000050/   being written (by all learner ranks and the driver)
    checkpoints/step-000050/        complete: manifest.json lists each file with its size and SHA-256

Protocol: every writer puts its files into the temporary directory; when all have said they are done, the
driver syncs the files, writes manifest.json last and renames the directory. A crash before the rename leaves
only a temporary directory, which nothing reads and the next write or `prune` removes. What a disk does to a
file afterwards (truncation, a flipped bit, a lost file) is found by `verify`; `latest` then uses an earlier one.

Plain Python without Ray or torch: the writers define the content of the files. With ranks on several nodes
the directory must be on a file system that all of them see.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.atomic_file import sync_directory, write_atomically
from actors.threads import in_daemon_thread
from cluster.records.disk import clear_errors, full_disk_named

QUEUE_FILE = "queue.arrow"  # in a checkpoint: the replay queue with its data cursor and waiting groups
ALLOCATION_FILE = "allocation.json"  # there too: counts of each prompt and the next groups

T = TypeVar("T")

MANIFEST = "manifest.json"
FORMAT = 1

_COMPLETE = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_CLEANUP_SECONDS = 10.0  # to remove the files of a checkpoint that failed; the disk may be what hangs


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names the path and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its optimizer step and its directory."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest valid checkpoint, or None, and one warning for each newer one that was skipped."""

    checkpoint: Checkpoint | None
    warnings: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run, in `directory`. Only one process (the driver) uses this class at a time."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @contextlib.asynccontextmanager
    async def writing(
        self,
        step: int,
        *,
        keep: int,
        deadline_s: float,
        expected: Iterable[str] = (),
        protected: Collection[int] = (),
        when_complete: Callable[[], object] = lambda: None,
    ) -> AsyncIterator[Path]:
        """`async with checkpoints.writing(50, ...) as path:` yields the temporary directory; the block's end finalises.

        After an exception in the block its files are removed, which frees the space of a full disk. Hashing a large
        checkpoint takes minutes, so that is done on a thread, and the event loop keeps serving.

        Args:
            keep: complete checkpoints that may stay, this one included.
            deadline_s: seconds for each of the three parts: to begin, to finalise and to prune.
            expected: as in `finalise`.
            protected: as in `prune`.
            when_complete: called when the checkpoint is complete, before others are removed.

        Raises:
            RunDirectoryError: the disk is full, here or in another process.
            CheckpointError: as in `finalise`.
            TimeoutError: after `deadline_s`; the disk hangs.
        """

        async def in_thread(work: Callable[[], T], to: str, seconds: float = deadline_s) -> T:
            to = f"{to} in {self.directory} (see deadlines.checkpoint_s)"
            return await in_daemon_thread(work, owner="the driver", to=to, deadline_s=seconds)

        path = await in_thread(lambda: self.begin(step), f"begin the checkpoint of step {step}")
        try:
            with full_disk_named(path):
                yield path
                await in_thread(
                    lambda: self.finalise(step, expected=expected), f"finalise the checkpoint of step {step}"
                )
        except BaseException:
            with contextlib.suppress(TimeoutError):  # its thread goes on
                await in_thread(lambda: shutil.rmtree(path, ignore_errors=True), "remove it", _CLEANUP_SECONDS)
            raise
        await in_thread(when_complete, f"record the checkpoint of step {step}")
        await in_thread(lambda: self.prune(keep, protected), "remove old checkpoints")

    def begin(self, step: int) -> Path:
        """Makes the empty temporary directory of a step; any number of processes may write files into it."""
        path = self._temporary(step)
        with clear_errors(path):
            if path.exists():  # left by a crash
                shutil.rmtree(path)
            path.mkdir(parents=True)
        return path

    def finalise(self, step: int, *, expected: Iterable[str] = ()) -> Checkpoint:
        """Makes the step's checkpoint complete. Call it when every writer is done.

        Args:
            expected: relative paths that must be there, so that a rank that wrote nothing is noticed now and
                not when the checkpoint is needed.

        Raises:
            CheckpointError: a file is missing, or there are no files.
            RunDirectoryError: the disk is full or not writable.
        """
        temporary, final = self._temporary(step), self.path_of(step)
        with clear_errors(temporary):
            files = _describe(temporary)
            missing = sorted(set(expected) - set(files))
            if missing or not files:
                what = ", ".join(missing) or "any file"
                raise CheckpointError(f"checkpoint of step {step} is incomplete: {what} was never written")
            body: dict[str, Any] = {"format": FORMAT, "step": step, "metadata": {}}
            body["files"] = files
            manifest = json.dumps(_signed(body), indent=1, allow_nan=False)
            write_atomically(temporary / MANIFEST, manifest.encode())
            for directory in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
                sync_directory(directory)
            self._replace(temporary, final)
        return Checkpoint(step, final)

    def _replace(self, temporary: Path, final: Path) -> None:
        """Rename the finished directory into place; replaces an incomplete or older one of the same step."""
        old = final.with_name(_REPLACED + final.name)
        if old.exists():
            shutil.rmtree(old)
        if final.exists():  # rename cannot replace a directory that holds files
            os.rename(final, old)
        os.rename(temporary, final)
        sync_directory(self.directory)
        shutil.rmtree(old, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps with a checkpoint directory, ascending; not verified."""
        if not self.directory.is_dir():
            return []
        matches = (_COMPLETE.fullmatch(p.name) for p in self.directory.iterdir() if p.is_dir())
        return sorted(int(match.group(1)) for match in matches if match)

    def latest(self, *, contents: bool = True) -> Latest:
        """The newest checkpoint whose files all have the size and, with `contents`, the SHA-256 of its manifest."""
        warnings: list[str] = []
        for step in reversed(self.steps()):
            try:
                return Latest(verify(self.path_of(step), contents=contents), tuple(warnings))
            except CheckpointError as error:
                warnings.append(f"skipped a checkpoint that cannot be trusted: {error}")
        return Latest(None, tuple(warnings))

    def prune(self, keep: int, protected: Collection[int] = ()) -> list[int]:
        """Removes all but the newest `keep` (>= 1) complete checkpoints, and leftovers; returns the removed.

        The checkpoints of `protected` steps stay, besides those.

        A directory whose files are missing or of the wrong size does not count as kept, so a torn newest
        checkpoint never costs the last good one. (Contents are not hashed here: that would read every file.)
        """
        if keep < 1:
            raise ValueError(f"checkpoint.keep must be at least 1, not {keep}")
        with clear_errors(self.directory):
            for leftover in (*self.directory.glob(f"{_TEMPORARY}*"), *self.directory.glob(f"{_REPLACED}*")):
                shutil.rmtree(leftover)
            good = self.complete()
            # Torn ones newer than the oldest kept stay: `latest` warns of them, a person may look at them.
            oldest = good[-keep] if len(good) > keep else 0
            removed = [step for step in self.steps() if step < oldest and step not in protected]
            for step in removed:
                # Renamed first: a crash in the middle of a removal must not leave what looks torn.
                doomed = self.directory / f"{_REPLACED}{self.path_of(step).name}"
                os.rename(self.path_of(step), doomed)
                shutil.rmtree(doomed)
        return removed

    def complete(self) -> list[int]:
        """Steps whose checkpoints have all their files, ascending; contents are not hashed."""
        return [step for step in self.steps() if self._looks_complete(step)]

    def _looks_complete(self, step: int) -> bool:
        try:
            verify(self.path_of(step), contents=False)
        except CheckpointError:
            return False
        return True

    def path_of(self, step: int) -> Path:
        """The directory of a step's checkpoint."""
        return self.directory / f"step-{step:06d}"

    def _temporary(self, step: int) -> Path:
        return self.directory / f"{_TEMPORARY}step-{step:06d}"


def verify(path: str | Path, *, contents: bool = True) -> Checkpoint:
    """Reads a checkpoint's manifest and checks every file's size and (with `contents`) SHA-256.

    Raises CheckpointError naming the first thing that is wrong.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        body = {key: manifest[key] for key in ("format", "step", "metadata", "files")}
        checksum = manifest["sha256"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {MANIFEST}: it is not a checkpoint, or was not finished") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read: {error!r}") from error
    if checksum != _signed(body)["sha256"]:
        raise CheckpointError(f"{path / MANIFEST} was changed after it was written")
    if body["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {body['format']}; this version of bonrl reads {FORMAT}")
    try:
        for name, entry in body["files"].items():
            size = (path / name).stat().st_size
            if size != entry["bytes"]:
                raise CheckpointError(f"{path / name} has {size} bytes instead of {entry['bytes']}")
            if contents and _sha256(path / name) != entry["sha256"]:
                raise CheckpointError(f"{path / name} has changed since it was written (its SHA-256 differs)")
    except OSError as error:
        raise CheckpointError(f"{path / name} cannot be read: {error}") from error
    return Checkpoint(body["step"], path)


def _describe(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a directory, each made durable first; names relative."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        name = path.relative_to(directory).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    return files


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _signed(body: Mapping[str, Any]) -> dict[str, Any]:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return {**body, "sha256": hashlib.sha256(canonical).hexdigest()}
