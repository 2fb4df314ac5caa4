"""Files that are replaced as a whole: by killed processes, on a full disk; and the messages of two writers."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.atomic_file import atomic_file, write_atomically
from actors.queue.group_log import write_groups
from actors.queue.snapshot import SnapshotError, write_snapshot
from tests.actors.test_group import make_group


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_failed_replacement_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary.json"
    write_atomically(file, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_and_its_name_are_on_disk_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with atomic_file(tmp_path / "f", one_writer=True) as file:
        file.write(b"new")
    assert synced == [str(tmp_path / ".f.tmp"), str(tmp_path)]


def test_what_a_killed_only_writer_leaves_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".f.tmp").write_bytes(b"left by a killed process")
    with atomic_file(tmp_path / "f", one_writer=True) as file:
        file.write(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"new")]


def _crash_between_writes(path: str) -> None:
    for size in range(1, 10_000):
        write_atomically(Path(path), bytes([size % 256]) * 200_000)


def test_kill_while_replacing_leaves_old_or_new(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"\0" * 200_000)
    for delay in (0.01, 0.03, 0.05):
        process = multiprocessing.get_context("fork").Process(target=_crash_between_writes, args=(str(file),))
        process.start()
        process.join(timeout=delay)
        process.kill()
        process.join(timeout=10)
        content = file.read_bytes()
        assert len(content) == 200_000 and len(set(content)) == 1


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda path: write_groups(path, [make_group().to_record_batch()]), OSError, "cannot write groups to"),
        (lambda path: write_snapshot(path, {}, {}), SnapshotError, "cannot write the queue to"),
    ],
)
def test_a_full_disk_is_named_with_file_and_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(error) as refused:
        write(tmp_path / "file")
    expected = f"{message} {tmp_path / 'file'}: No space left on device; free space or change run.directory"
    assert expected in str(refused.value) and not list(tmp_path.iterdir())
