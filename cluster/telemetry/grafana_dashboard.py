"""Writes a Grafana dashboard of the run's gauges: `python -m cluster.telemetry.grafana_dashboard > bonrl.json`.

Every row of the table of metrics is one panel, so a new metric is on the dashboard without further work.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.records.metric_names import AXES, METRICS, Metric
from cluster.telemetry.ray_gauges import RUN, SCRAPED_PREFIX, gauge_name, tags_of

_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3  # of a panel, in units of Grafana's grid of 24 columns
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_UNITS = {"share": "percentunit", "s": "s", "bytes": "bytes"}  # Grafana's names; all others are shown as numbers
_SCHEMA = 39  # version of the dashboard's JSON: Grafana 10 and later; it converts older ones when it loads them


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it: variables `datasource` and `run`, and a row of panels for each axis."""
    panels: list[dict[str, Any]] = []
    top = 0
    for axis, about in AXES.items():
        panels.append(_row(f"{axis}: {about}", top))
        metrics = [metric for metric in METRICS if metric.axis == axis and not _is_interval_end(metric)]
        for i, metric in enumerate(metrics):
            panels.append(_panel(metric, x=i % _COLUMNS * _WIDTH, y=top + 1 + i // _COLUMNS * _HEIGHT))
        top += 1 + -(-len(metrics) // _COLUMNS) * _HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "title": "bonrl",
        "uid": "bonrl",
        "tags": ["bonrl", "ray"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source_variable(), _run_variable()]},
        "panels": panels,
    }


def _row(title: str, y: int) -> dict[str, Any]:
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        "panels": [],
    }


def _panel(metric: Metric, *, x: int, y: int) -> dict[str, Any]:
    tags = tags_of(metric.key)
    query = f'{SCRAPED_PREFIX}{gauge_name(metric.key)}{{{RUN}=~"$run"}}'
    legend = " ".join([f"{{{{{RUN}}}}}", *(f"{tag}={{{{{tag}}}}}" for tag in tags)])
    return {
        "type": "timeseries",
        "title": f"{metric.key} [{metric.unit}]",
        "description": f"{metric.meaning}. Look for: {metric.watch}",
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": _UNITS.get(metric.unit, "short")}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": query, "legendFormat": legend}],
    }


def _is_interval_end(metric: Metric) -> bool:
    """Whether it is an end of the 95 % interval of another metric."""
    return metric.key.removesuffix("_low").removesuffix("_high") in {other.key for other in METRICS if other != metric}


def _data_source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run_variable() -> dict[str, Any]:
    query = f"label_values({SCRAPED_PREFIX}{gauge_name(next(iter(AXES)))}, {RUN})"
    return {
        "name": "run",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "run"},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
