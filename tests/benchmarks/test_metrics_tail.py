"""The last step of a run that is under way: half lines, a resume that sets it back, a file longer than its tail."""

from __future__ import annotations

from pathlib import Path

from benchmarks.metrics_tail import TAIL_BYTES, last_step
from cluster.records.run_directory import RunDirectory


def test_it_follows_a_run_and_its_resume(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        assert last_step(directory.path) == 0
        for step in (1, 2, 3):
            directory.append_metrics({"train/step": step})
            directory.append_metrics({"evaluation/step": step, "eval/pass@1": 0.5})
            assert last_step(directory.path) == step
        directory.rewind(1)
        assert last_step(directory.path) == 1
        directory.append_metrics({"train/step": 2})
        assert last_step(directory.path) == 2


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"train/step": 1, "reward/mean": 0.5}\n' * (TAIL_BYTES // 10) + '{"train/step": 2}\n{"train/st')
    assert last_step(tmp_path) == 2
    with file.open("a") as more:
        more.write('ep": 3}\n')
    assert last_step(tmp_path) == 3
