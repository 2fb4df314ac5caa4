"""Nodes come and go: a sampler and a verifier join with a node and leave with it; the run continues until SIGTERM."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import read_metrics
from tests.chaos.campaign import SMALL
from tests.chaos.test_preemption import drain
from tests.cluster.running import REPOSITORY, command, environment, run_directory

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_spares_join_with_a_node_and_leave_with_it(tmp_path: Path):
    """Resources are reserved for both spares at once. Joining and leaving are no restarts: none are allowed here.

    It ends by SIGTERM, which Ray's job stop and a pre-empted node send; Ctrl-C takes the same way (test_job_parts.py).
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 200 * 2**20})
    log = tmp_path / "output.log"
    arguments = [
        "train", *SMALL, "run.steps=100000", "queue.staleness=2", "actors.samplers={min: 1, max: 2}",
        "actors.verifiers={min: 1, max: 2}", "supervision.max_restarts=0",
        f"cluster.address={cluster.address}", f"run.directory={tmp_path / 'runs'}",
    ]  # fmt: skip
    with log.open("w") as sink:
        run = subprocess.Popen(
            command(*arguments), cwd=REPOSITORY, env=environment(), stdout=sink, stderr=subprocess.STDOUT
        )
    try:

        def serving() -> tuple[int, int]:
            runs = list((tmp_path / "runs").glob("*/metrics.jsonl"))
            rows = [row for row in read_metrics(runs[0].parent) if "train/step" in row] if runs else []
            return tuple(int(rows[-1][f"supervision/{kind}"]) for kind in ("samplers", "verifiers")) if rows else (0, 0)

        def wait_for(samplers: int, verifiers: int) -> None:
            end = time.monotonic() + 240
            while serving() != (samplers, verifiers):
                assert run.poll() is None and time.monotonic() < end, f"{serving()} serve:\n{log.read_text()}"
                time.sleep(0.2)

        wait_for(1, 1)
        node = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
        wait_for(2, 2)
        assert not list((tmp_path / "runs").glob("*/incidents.jsonl")), "each spare started in its reserved bundle"
        drain(cluster.address, node.node_id, seconds=60)
        wait_for(1, 1)
        directory = run_directory(tmp_path / "runs")
        after = len(read_metrics(directory))
        end = time.monotonic() + 60
        while len(read_metrics(directory)) < after + 5 or not (directory / "incidents.jsonl").is_file():
            assert run.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        incidents = [json.loads(line) for line in (directory / "incidents.jsonl").read_text().splitlines()]
        assert [incident["kind"] for incident in incidents] == ["node"]
        assert all(name in incidents[0]["reason"] for name in ("sampler-1", "verifier-1", "preempted"))
        rows = [row for row in read_metrics(directory) if "train/step" in row]
        assert max(row["queue/staleness_max"] for row in rows) <= rows[0]["queue/staleness_bound"] == 2
        run.terminate()
        assert run.wait(timeout=40) == 130, log.read_text()  # 30 s, and a busy machine
        output = log.read_text()
        left = int(re.search(r"stopped after step (\d+)", output).group(1))
        assert "continue with: bonrl train --resume" in output and "Traceback" not in output, output
        assert Checkpoints(directory / "checkpoints").latest().checkpoint.step == left
    finally:
        run.kill()
        run.wait(timeout=30)
        cluster.shutdown()
