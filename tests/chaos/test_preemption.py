"""The node of the learner and a verifier is preempted with a notice: they move, and no restart counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.records.run_directory import read_metrics
from tests.chaos.campaign import SMALL
from tests.cluster.running import REPOSITORY, command, environment, run_directory

pytestmark = [pytest.mark.slow, pytest.mark.alone]
NODE = {
    "num_cpus": 2, "object_store_memory": 100 * 2**20, "resources": {"bonrl-learner": 1, "bonrl-verifier": 1},
}  # fmt: skip
NODE_TYPES = (
    "{samplers: {cpus: 1, memory_gib: 16, roles: [sampler]}, "
    "others: {cpus: 2, memory_gib: 16, roles: [learner, verifier], spot: true}}"
)


def test_actors_leave_a_node_with_a_notice_and_the_learner_saves_first(tmp_path: Path):
    """The sampler stays. The node ends by itself as soon as it is empty, before the deadline of the notice."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": 200 * 2**20, "resources": {"bonrl-sampler": 1}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    log = tmp_path / "output.log"
    arguments = [
        "train", *SMALL, "run.steps=100000", "queue.staleness=1", "checkpoint.every=0", "supervision.max_restarts=0",
        f"cluster.node_types={NODE_TYPES}", f"cluster.address={cluster.address}", f"run.directory={tmp_path / 'runs'}",
    ]  # fmt: skip
    first = cluster.add_node(**NODE)
    with log.open("w") as sink:
        run = subprocess.Popen(
            command(*arguments), cwd=REPOSITORY, env=environment(), stdout=sink, stderr=subprocess.STDOUT
        )

    def rows() -> list[dict]:
        runs = list((tmp_path / "runs").glob("*/metrics.jsonl"))
        return [row for row in read_metrics(runs[0].parent) if "train/step" in row] if runs else []

    def wait_for(condition, what: str) -> None:
        end = time.monotonic() + 180
        while not condition():
            assert run.poll() is None and time.monotonic() < end, f"{what}:\n{log.read_text()}"
            time.sleep(0.2)

    try:
        wait_for(lambda: len(rows()) >= 2, "two steps")
        cluster.add_node(**NODE)
        assert rows()[-1]["supervision/preemptions"] == 0
        drain(cluster.address, first.node_id, seconds=120)
        wait_for(lambda: rows()[-1]["supervision/restarts"] == 2, "two actors moved")
        after = len(rows())
        wait_for(lambda: len(rows()) >= after + 2, "two steps on the other node")
        assert rows()[-1]["supervision/preemptions"] == 1
        wait_for(lambda: first.all_processes["raylet"][0].process.poll() is not None, "the empty node ended")
        directory = run_directory(tmp_path / "runs")
        incidents = [json.loads(line) for line in (directory / "incidents.jsonl").read_text().splitlines()]
        notice, *moves = incidents
        assert notice["kind"] == "node" and first.node_id[:8] in notice["unit"] and "preempted" in notice["reason"]
        assert {(move["kind"], move["unit"]) for move in moves} == {
            ("move", "verifier-0"),
            ("move", "learner"),
        }, incidents
        steps = [row["train/step"] for row in rows()]
        assert steps == list(range(1, len(steps) + 1)), "every step once"
        assert not list((directory / "quarantine").glob("*"))
        assert list((directory / "checkpoints").iterdir()), "saved before the learner moved"
        run.terminate()
        assert run.wait(timeout=40) == 130, log.read_text()
    finally:
        run.kill()
        run.wait(timeout=30)
        cluster.shutdown()


def drain(address: str, node: str, seconds: int) -> None:
    """What a spot notice must run on or for the node."""
    subprocess.run(
        [
            Path(sys.executable).with_name("ray"), "drain-node", "--address", address, "--node-id", node,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice",
            "--deadline-remaining-seconds", str(seconds),
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
