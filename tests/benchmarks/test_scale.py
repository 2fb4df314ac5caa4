"""The simulated cluster trains every group, and its table has every figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


def test_a_tiny_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.scale.__main__ import main

    main(["--tiny", "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    for row in ("start", "driver", "in flight", "calls", "queue", "death", "supervision", "bytes", "step, samplers: 2"):
        assert f"| {row} |" in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    large = figures["large"]
    assert large["peak_in_flight"] == 16, "two steps of 8 groups at staleness 1"
    # of 24 groups and 3 steps; the groups of the sampler that was killed are committed once too
    assert 24 + 3 * 3 <= large["queue_operations"] <= 24 + 3 * 3 + 1
    assert 2 < large["calls_per_group"] and 0 < large["mean_in_flight"] <= 16
    assert 0 < large["death_noticed_s"] and 0 < large["idle_death_noticed_s"]
    assert large["driver_cpu_ms_per_group"] > 0 and large["queue_operations_per_cpu_s"] > 0
    assert [one["shape"]["samplers"] for one in figures["scaling"]] == [1, 2]


def test_a_tiny_run_with_ray(repository: Path) -> None:
    """In a process of its own, because Ray leaves threads behind."""
    sizes = [
        "--samplers",
        "1",
        "--prompts",
        "8",
        "--staleness",
        "1",
        "--steps",
        "2",
        "--latency",
        "0.1",
        "--tokens",
        "4",
    ]
    command = [sys.executable, "-m", "benchmarks.driver", *sizes, "--groups-per-commit", "3"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("16 groups, 16 in flight at most"), done.stdout


def test_one_sampler_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.scale.__main__ import main

    with pytest.raises(SystemExit):
        main(["--samplers", "1"])
    assert "two samplers and two steps" in capsys.readouterr().err
