"""Metrics as gauges of Ray, and the Grafana dashboard of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import pytest

from cluster.records.metric_names import AXES, METRICS, MetricError
from cluster.telemetry.grafana_dashboard import dashboard
from cluster.telemetry.ray_gauges import SCRAPED_PREFIX, RayGauges, exported, gauge_name, tags_of


@pytest.mark.parametrize(
    ("name", "gauge", "tags"),
    [
        ("train/step", "bonrl_train_step", {}),
        ("queue/depth", "bonrl_queue_depth", {}),
        ("pass_at_k/8", "bonrl_pass_at_k", {"k": "8"}),
        ("eval/pass@64", "bonrl_eval_pass", {"k": "64"}),
        ("eval/pass@64_low", "bonrl_eval_pass_low", {"k": "64"}),
        ("verifier/timeout_share", "bonrl_verifier_share", {"status": "timeout"}),
        ("reward_part/Format", "bonrl_reward_part", {"part": "Format"}),
        ("supervision/restarts_of/learner-rank-1", "bonrl_supervision_restarts_of", {"actor": "learner-rank-1"}),
    ],
)
def test_the_name_of_a_gauge_follows_from_the_metric(name: str, gauge: str, tags: dict[str, str]) -> None:
    assert exported(name) == (gauge, tags)


def test_every_gauge_has_a_valid_name_and_one_metric() -> None:
    names = Counter(gauge_name(key) for key in [*AXES, *(metric.key for metric in METRICS)])
    assert max(names.values()) == 1, names.most_common(3)
    assert all(re.fullmatch(r"bonrl_[a-z][a-z0-9_]*[a-z0-9]", name) for name in names)
    with pytest.raises(MetricError, match="unknown metric"):
        exported("queue/deptth")


def test_without_ray_nothing_is_exported() -> None:
    RayGauges("run").set({"queue/depth": 1.0})


def test_every_panel_asks_for_a_gauge_that_is_exported() -> None:
    found = json.loads(json.dumps(dashboard(), allow_nan=False))
    panels = [panel for panel in found["panels"] if panel["type"] == "timeseries"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    gauges = {SCRAPED_PREFIX + gauge_name(metric.key): metric for metric in METRICS}
    asked = [re.fullmatch(r'(\w+)\{run=~"\$run"\}', query) for query in queries]
    assert all(query is not None and query[1] in gauges for query in asked)
    without = {name for name in gauges if name not in {query[1] for query in asked if query}}
    assert all(name.endswith(("_low", "_high")) for name in without)
    for panel, query in zip(panels, asked, strict=True):
        assert query is not None
        for tag in tags_of(gauges[query[1]].key):
            assert f"{{{{{tag}}}}}" in panel["targets"][0]["legendFormat"]
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    cells = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in found["panels"]]
    assert len(set(cells)) == len(cells) and all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)
    variables = {variable["name"]: variable for variable in found["templating"]["list"]}
    asked_for = re.fullmatch(r"label_values\((\w+), run\)", variables["run"]["query"]["query"])
    assert asked_for and asked_for[1].removeprefix(SCRAPED_PREFIX) in {gauge_name(axis) for axis in AXES}


EXPORT = """
import json, sys, time, ray
often = {"metrics_report_interval_ms": 1000}  # default: 10 s
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, _system_config=often)
from cluster.telemetry.ray_gauges import RayGauges
gauges = RayGauges("my-run")
gauges.set({"queue/depth": 3, "pass_at_k/8": 0.25, "train/step": 2, "policy/ratio_max": float("nan")})
gauges.set({"queue/depth": 5})
node = ray.nodes()[0]
print(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_ray_serves_the_gauges_to_prometheus() -> None:
    """As Prometheus reads them: the newest value, with the tags of the run and of the placeholder."""
    process = subprocess.Popen([sys.executable, "-c", EXPORT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        deadline, text = time.monotonic() + 40, ""
        while "bonrl_queue_depth" not in text and time.monotonic() < deadline:
            time.sleep(1)
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                text = answer.read().decode()
    finally:
        process.communicate("", timeout=60)
    lines = [line for line in text.splitlines() if line.startswith("ray_bonrl_")]
    values = {line.partition("{")[0]: (line, float(line.rpartition(" ")[2])) for line in lines}
    assert values["ray_bonrl_queue_depth"][1] == 5 and 'run="my-run"' in values["ray_bonrl_queue_depth"][0]
    assert values["ray_bonrl_pass_at_k"][1] == 0.25 and 'k="8"' in values["ray_bonrl_pass_at_k"][0]
    assert values["ray_bonrl_train_step"][1] == 2
    assert "ray_bonrl_policy_ratio_max" not in values, "Ray leaves out a value that is not a number"
