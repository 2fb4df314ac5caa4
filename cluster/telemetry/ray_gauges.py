"""The run's metrics as gauges of Ray, which every node's metrics agent serves to Prometheus.

The name follows from the name in the table of metrics by one rule (:func:`exported`), so there is no second list:
``queue/depth`` is the gauge ``bonrl_queue_depth``, and a placeholder becomes a tag: ``pass_at_k/8`` is
``bonrl_pass_at_k{k="8"}``. Ray puts ``ray_`` before each name, and every gauge has the tag ``run``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from cluster.records.metric_names import AXES, METRICS, find_metric, to_number

SCRAPED_PREFIX = "ray_"  # of every metric that Ray's agents serve
RUN = "run"  # tag of every gauge


def gauge_name(key: str) -> str:
    """The gauge of a key of the table, without its placeholders: `eval/pass@<k>_low` is `bonrl_eval_pass_low`."""
    words = re.sub(r"[^a-zA-Z0-9]+", "_", re.sub(r"<\w+>", "", key))
    return f"bonrl_{words.strip('_')}".lower()


def tags_of(key: str) -> tuple[str, ...]:
    """The placeholders of a key, which are tags of its gauge."""
    return tuple(re.findall(r"<(\w+)>", key))


@cache  # a run has a few names, which hundreds of samplers report every few seconds
def exported(name: str) -> tuple[str, dict[str, str]]:
    """The gauge of a logged name, and its tags besides `run`.

    Raises:
        MetricError: the table has no such name.
    """
    if name in AXES:
        return gauge_name(name), {}
    metric = find_metric(name)
    found = metric.regex.fullmatch(name)
    return gauge_name(metric.key), found.groupdict() if found is not None else {}


class RayGauges:
    """The gauges of one run. Without a Ray cluster in this process, nothing is exported.

    Args:
        run: value of the tag `run`, the name of the run directory.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}
        self._about = AXES | {metric.key: f"{metric.meaning} [{metric.unit}]" for metric in METRICS}

    def set(self, row: Mapping[str, Any]) -> None:
        """Export the newest values, by their names in metrics.jsonl."""
        import ray

        if not ray.is_initialized():
            return
        for name, value in row.items():
            gauge, tags = exported(name)
            if gauge not in self._gauges:
                key = name if name in AXES else find_metric(name).key
                self._gauges[gauge] = _make(gauge, self._about[key], (RUN, *tags))
            self._gauges[gauge].set(float(to_number(name, value)), tags={RUN: self._run, **tags})


def _make(name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description=description, tag_keys=tag_keys)
