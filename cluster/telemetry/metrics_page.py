"""Writes docs/metrics.md: `python -m cluster.telemetry.metrics_page > docs/metrics.md`."""

from __future__ import annotations

from cluster.records.metric_names import AXES, METRICS, Metric
from cluster.telemetry.health import reference_section


def reference_page() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Every number that a run logs, to `metrics.jsonl` in the run directory and to its [trackers](trackers.md).",
        "This page is generated: edit `cluster/records/metrics.yaml`, then run",
        "`python -m cluster.telemetry.metrics_page > docs/metrics.md`.",
        "",
        "Each metric belongs to one axis. In wandb it is registered with `define_metric`, so that charts use this",
        "axis; wandb's implicit step is not used.",
        "",
        "`bonrl eval --output DIR` writes the same names to DIR/evaluation.json, and the standard error of each",
        "point of a curve over prompts, as `eval/pass@8_standard_error`.",
    ]
    for axis, about in AXES.items():
        lines += ["", f"## Over `{axis}`", "", f"`{axis}`: {about}.", ""]
        lines += ["| metric | unit | meaning | what to look for |", "| --- | --- | --- | --- |"]
        lines += [_page_line(metric) for metric in METRICS if metric.axis == axis]
    lines += ["", reference_section()]
    return "\n".join(lines) + "\n"


def _page_line(metric: Metric) -> str:
    cells = (f"`{metric.key}`", metric.unit, metric.meaning, metric.watch)
    # Outside code spans a pipe would end the cell and <k> would be read as an HTML tag.
    safe = [cells[0], *(c.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;") for c in cells[1:])]
    return "| " + " | ".join(safe) + " |"


if __name__ == "__main__":
    print(reference_page(), end="")
