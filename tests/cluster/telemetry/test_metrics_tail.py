"""The last step of a run, by one that looks often: each line once, no half line, and a resume that sets it back."""

from __future__ import annotations

from pathlib import Path

from cluster.records.run_directory import RunDirectory
from cluster.telemetry.metrics_tail import MetricsTail


def test_it_follows_a_run_and_its_resume(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        tail = MetricsTail(directory.path)
        assert tail.step() == 0
        for step in (1, 2, 3):
            directory.append_metrics({"train/step": step})
            directory.append_metrics({"evaluation/step": step, "eval/pass@1": 0.5})
            assert tail.step() == tail.step() == step
        directory.rewind(1)
        assert tail.step() == 1
        directory.append_metrics({"train/step": 2})
        assert tail.step() == 2


def test_half_a_line_waits_for_its_other_half_and_no_line_is_read_twice(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"train/step": 1}\n{"train/st')
    tail = MetricsTail(tmp_path)
    assert tail.step() == 1
    with file.open("a") as more:
        more.write('ep": 2}\n')
    assert tail.step() == 2
    monkeypatch.setattr("cluster.telemetry.metrics_tail.parse_row", lambda line: 1 / 0)
    assert tail.step() == 2
