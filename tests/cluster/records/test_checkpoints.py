"""Pins the checkpoint protocol: whatever is torn, lost or killed, only complete checkpoints are loaded."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.records.checkpoints import CheckpointError, Checkpoints, verify
from cluster.records.disk import RunDirectoryError


def write(checkpoints: Checkpoints, step: int) -> Path:
    path = checkpoints.begin(step)
    (path / "weights.bin").write_bytes(bytes([step]) * 1000)
    (path / "optimizer").mkdir()
    (path / "optimizer" / "rank0.bin").write_bytes(b"state")
    return checkpoints.finalise(step).path


def write_as_a_run_does(checkpoints: Checkpoints, step: int, writer: Callable[[Path], object], **more: Any) -> None:
    async def save() -> None:
        async with checkpoints.writing(step, **{"keep": 2, "deadline_s": 20.0, **more}) as path:
            writer(path)

    asyncio.run(save())


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def test_a_written_checkpoint_is_found_and_complete(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest().checkpoint is None
    write(checkpoints, 50)
    path = write(checkpoints, 100)
    found = checkpoints.latest()
    assert found.warnings == ()
    assert found.checkpoint is not None
    assert (found.checkpoint.step, found.checkpoint.path) == (100, path)
    assert (path / "optimizer" / "rank0.bin").read_bytes() == b"state"
    assert checkpoints.steps() == [50, 100]
    assert [p.name for p in sorted(checkpoints.directory.iterdir())] == ["step-000050", "step-000100"]


def _truncate(path: Path) -> None:
    os.truncate(path / "weights.bin", 999)


def _flip(path: Path) -> None:
    data = bytearray((path / "weights.bin").read_bytes())
    data[500] ^= 1
    (path / "weights.bin").write_bytes(bytes(data))


def _lose_file(path: Path) -> None:
    (path / "optimizer" / "rank0.bin").unlink()


def _lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def _tear_manifest(path: Path) -> None:
    os.truncate(path / "manifest.json", 40)


def _edit_manifest(path: Path) -> None:
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"metadata": {}', '"metadata": {"edited": 1}'))


def _list_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[]")


DAMAGES = [_truncate, _flip, _lose_file, _lose_manifest, _tear_manifest, _edit_manifest, _list_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_never_loaded(checkpoints: Checkpoints, damage: Callable[[Path], None]) -> None:
    write(checkpoints, 50)
    path = write(checkpoints, 100)
    damage(path)
    with pytest.raises(CheckpointError, match="step-000100"):
        verify(path)
    found = checkpoints.latest()
    assert found.checkpoint is not None and found.checkpoint.step == 50
    assert len(found.warnings) == 1 and "step-000100" in found.warnings[0]
    damage(write(checkpoints, 50))
    assert checkpoints.latest().checkpoint is None
    assert len(checkpoints.latest().warnings) == 2
    write(checkpoints, 100)  # the run continues and reaches the step of the torn checkpoint again
    assert checkpoints.latest().checkpoint is not None
    assert checkpoints.latest().warnings == ()


def raises(error: Exception) -> Callable[[Path], None]:
    def writer(path: Path) -> None:
        (path / "weights.bin").write_bytes(b"half")
        raise error

    return writer


def test_a_run_writes_whole_checkpoints_and_keeps_few(checkpoints: Checkpoints) -> None:
    for step in (10, 20, 30):
        write_as_a_run_does(checkpoints, step, lambda path: (path / "rank0.bin").write_bytes(b"x"), keep=2)
    assert checkpoints.steps() == [20, 30] and checkpoints.latest().warnings == ()


def test_an_exception_while_writing_keeps_nothing(checkpoints: Checkpoints) -> None:
    write(checkpoints, 50)
    with pytest.raises(KeyError):
        write_as_a_run_does(checkpoints, 100, raises(KeyError("a rank failed")))
    assert [p.name for p in checkpoints.directory.iterdir()] == ["step-000050"]


def test_missing_files_are_named(checkpoints: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match=r"incomplete: rank1\.bin was never written"):
        write_as_a_run_does(
            checkpoints, 1, lambda path: (path / "rank0.bin").write_bytes(b"x"), expected=["rank0.bin", "rank1.bin"]
        )
    with pytest.raises(CheckpointError, match="any file"):
        write_as_a_run_does(checkpoints, 1, lambda path: None)
    assert list(checkpoints.directory.iterdir()) == []


FULL = {
    "the driver's own": OSError(errno.ENOSPC, "No space left on device"),
    "of an actor": RuntimeError("learner rank 0 failed to save: I/O error: No space left on device (os error 28)"),
    "a quota": RuntimeError("learner rank 0 failed to save: OSError: [Errno 122] Disk quota exceeded"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_is_recognized_from_any_error_and_its_space_is_freed(
    checkpoints: Checkpoints, error: Exception
) -> None:
    with pytest.raises(RunDirectoryError, match=r"full.*checkpoint\.keep"):
        write_as_a_run_does(checkpoints, 1, raises(error))
    with pytest.raises(ConnectionError):
        write_as_a_run_does(checkpoints, 1, raises(ConnectionError("an actor is gone")))
    assert list(checkpoints.directory.iterdir()) == []


def test_a_full_disk_is_recognized_when_the_error_does_not_say_so(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save says "unexpected pos 2094208 vs 2094096"."""
    monkeypatch.setattr("cluster.records.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(RunDirectoryError, match=r"full.*checkpoint\.keep.*unexpected pos"):
        write_as_a_run_does(checkpoints, 1, raises(RuntimeError("unexpected pos 2094208 vs 2094096")))


def test_waiting_for_a_hung_disk_ends_and_the_event_loop_keeps_running(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk does not remove files either, and does not say how much room it has."""
    release, main = threading.Event(), threading.current_thread()

    def hang(*_: object, **__: object) -> None:
        assert threading.current_thread() is not main, "the event loop would hang"
        release.wait(30)

    monkeypatch.setattr("cluster.records.checkpoints._describe", hang)
    monkeypatch.setattr("cluster.records.checkpoints.shutil.rmtree", hang)
    monkeypatch.setattr("cluster.records.disk.shutil.disk_usage", hang)
    monkeypatch.setattr("cluster.records.checkpoints._CLEANUP_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match=r"did not finalise the checkpoint of step 1.*deadlines\.checkpoint_s"):
        write_as_a_run_does(checkpoints, 1, lambda path: (path / "a").write_bytes(b"x"), deadline_s=0.2)
    release.set()


def test_several_writers_one_finalise(checkpoints: Checkpoints) -> None:
    path = checkpoints.begin(7)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rank: (path / f"rank{rank}.bin").write_bytes(bytes(10)), range(4)))
    assert checkpoints.latest().checkpoint is None
    checkpoint = checkpoints.finalise(7, expected=[f"rank{rank}.bin" for rank in range(4)])
    assert verify(checkpoint.path).step == 7


def test_leftovers_of_a_crash_are_ignored_and_removed(checkpoints: Checkpoints) -> None:
    write(checkpoints, 50)
    (checkpoints.begin(100) / "stale.bin").write_bytes(b"of a killed run")
    (checkpoints.begin(75) / "stale.bin").write_bytes(b"x")
    assert checkpoints.latest().checkpoint is not None
    assert checkpoints.steps() == [50]
    path = write(checkpoints, 100)
    assert not (path / "stale.bin").exists()
    checkpoints.prune(2)
    assert [p.name for p in sorted(checkpoints.directory.iterdir())] == ["step-000050", "step-000100"]


def test_prune_keeps_the_newest_and_counts_no_torn_one(checkpoints: Checkpoints) -> None:
    for step in (10, 20, 30, 40):
        write(checkpoints, step)
    _truncate(checkpoints.directory / "step-000040")
    assert checkpoints.prune(2) == [10]
    assert checkpoints.steps() == [20, 30, 40]
    assert checkpoints.prune(1) == [20]
    found = checkpoints.latest()
    assert found.checkpoint is not None and found.checkpoint.step == 30
    with pytest.raises(ValueError, match=r"checkpoint\.keep"):
        checkpoints.prune(0)


def test_prune_keeps_what_is_protected_besides_the_newest(checkpoints: Checkpoints) -> None:
    for step in (10, 20, 30):
        write(checkpoints, step)
    complete: list[list[int]] = []
    write_as_a_run_does(
        checkpoints,
        40,
        lambda path: (path / "weights.bin").write_bytes(b"x"),
        protected=(10,),
        when_complete=lambda: complete.append(checkpoints.steps()),
    )
    assert complete == [[10, 20, 30, 40]], "complete, and nothing deleted yet"
    assert checkpoints.steps() == [10, 30, 40]


class Killed(BaseException):
    """Simulates SIGKILL at one system call: nothing after it runs, not even clean-up."""


def test_a_crash_at_any_point_of_finalising_leaves_the_old_or_the_new(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(checkpoints, 50)
    calls = ("write_atomically", "sync_directory", "_describe", "os.rename", "os.fsync")
    for name in calls:
        path = checkpoints.begin(100)
        (path / "weights.bin").write_bytes(b"new")

        def kill(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(f"cluster.records.checkpoints.{name}", kill)
            checkpoints.finalise(100)
        found = Checkpoints(checkpoints.directory).latest()
        assert found.checkpoint is not None and found.checkpoint.step == 50 and found.warnings == (), name


def _write_endlessly(directory: str) -> None:
    checkpoints = Checkpoints(directory)
    for step in range(1, 100_000):
        write_large(checkpoints, step)
        checkpoints.prune(2)


def write_large(checkpoints: Checkpoints, step: int) -> None:
    path = checkpoints.begin(step)
    for rank in range(3):
        (path / f"rank{rank}.bin").write_bytes(bytes([step % 256]) * 50_000)
    checkpoints.finalise(step)


def test_sigkill_at_random_moments_never_leaves_a_torn_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    for delay in (0.02, 0.05, 0.09, 0.13):
        process = multiprocessing.get_context("fork").Process(target=_write_endlessly, args=(str(directory),))
        process.start()
        deadline = time.monotonic() + 10
        while not Checkpoints(directory).steps() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.join(timeout=delay)
        process.kill()
        process.join(timeout=10)
        found = Checkpoints(directory).latest()
        assert found.checkpoint is not None
        assert found.warnings == ()
        assert len(Checkpoints(directory).steps()) <= 3
