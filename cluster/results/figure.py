"""The figure of a comparison: the deployed metrics over the steps, and the differences at the last evaluation."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.results.comparison import Comparison

FORMATS = (".png", ".svg", ".pdf", ".html")
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # M. Okabe, K. Ito: safe for color blindness
_MAX_CURVES = 3  # metrics that have a panel


@dataclass(frozen=True)
class Curve:
    """A metric of one group over the steps."""

    group: int
    steps: list[int]
    values: list[float]
    lows: list[float]
    highs: list[float]


@dataclass(frozen=True)
class Bar:
    """A difference from the first group."""

    group: int
    label: str
    value: float
    low: float
    high: float


def check_figure(file: Path) -> None:
    """Refuse a figure that could not be made, before anything is computed.

    Raises:
        UsageError: an unknown ending, or matplotlib is needed and not installed.
    """
    if file.suffix not in FORMATS:
        raise UsageError(f"--figure {file}: the name must end with one of {', '.join(FORMATS)}")
    if file.suffix != ".html" and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            f"--figure {file}: {file.suffix} needs matplotlib, which is not installed; install it, or name a file that "
            "ends with .html"
        )


def write_figure(comparison: Comparison, file: Path) -> None:
    """Write the figure as the file's ending says.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        if file.suffix == ".html":
            _plotly(comparison).write_html(file, include_plotlyjs=True, config={"responsive": True})
        else:
            _matplotlib(comparison).savefig(file, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise UsageError(f"--figure {file}: cannot be written: {error.strerror}") from error


def curves(comparison: Comparison, metric: str) -> list[Curve]:
    """The metric of each group over the steps at which all runs were evaluated."""
    moments = [moment for moment in comparison.moments if moment.step is not None]
    found = []
    for number, group in enumerate(comparison.groups):
        points = [(m.step or 0, m.values[metric, group.label]) for m in moments if (metric, group.label) in m.values]
        steps, values = [step for step, _ in points], [value for _, value in points]
        found.append(Curve(number, steps, [v.value for v in values], [v.low for v in values], [v.high for v in values]))
    return found


def bars(comparison: Comparison) -> list[Bar]:
    """The differences at the last evaluation, by metric and then by group."""
    last = comparison.moments[0]
    places = {group.label: number for number, group in enumerate(comparison.groups)}
    return [
        Bar(places[label], comparison.labels[metric], found.value, found.low, found.high)
        for (metric, label), found in last.changes.items()
    ]


def _panels(comparison: Comparison) -> list[str]:
    """The metrics over steps; none where the runs share fewer than two steps."""
    if sum(moment.step is not None for moment in comparison.moments) < 2:
        return []
    return comparison.deployed[:_MAX_CURVES]


def _matplotlib(comparison: Comparison) -> Any:
    from matplotlib.figure import Figure

    panels, entries = _panels(comparison), bars(comparison)
    labels = list(dict.fromkeys(bar.label for bar in entries))
    figure = Figure(figsize=(4.2 * (len(panels) + 1), 3.6 + 0.12 * max(0, len(labels) - 8)), layout="constrained")
    axes = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    for axis, metric in zip(axes, panels, strict=False):
        for curve in curves(comparison, metric):
            color = COLORS[curve.group % len(COLORS)]
            axis.plot(curve.steps, curve.values, color=color, marker="o", markersize=3)
            axis.fill_between(curve.steps, curve.lows, curve.highs, color=color, alpha=0.15, linewidth=0)
        axis.set(title=comparison.labels[metric], xlabel="optimizer steps")
    axis, height = axes[-1], len(comparison.groups) - 1
    for bar in entries:
        y = labels.index(bar.label) + 0.6 * ((bar.group - 0.5) / height - 0.5)
        color = COLORS[bar.group % len(COLORS)]
        axis.plot([bar.low, bar.high], [y, y], color=color, linewidth=1.5)
        axis.plot([bar.value], [y], color=color, marker="o", markersize=4)
    axis.axvline(0, color="#888888", linewidth=0.8)
    axis.set(title="difference at the last evaluation", yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
    axis.set_yticklabels(labels)
    axis.set_xlabel("difference from the baseline")
    handles = [axis.plot([], [], color=COLORS[i % len(COLORS)])[0] for i in range(len(comparison.groups))]
    figure.legend(handles, _names(comparison), loc="outside lower left", frameon=False, fontsize="small")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _plotly(comparison: Comparison) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels, names = _panels(comparison), _names(comparison)
    titles = [comparison.labels[metric] for metric in panels] + ["difference at the last evaluation"]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles)
    for column, metric in enumerate(panels, start=1):
        for curve in curves(comparison, metric):
            errors = {
                "array": [high - value for high, value in zip(curve.highs, curve.values, strict=True)],
                "arrayminus": [value - low for low, value in zip(curve.lows, curve.values, strict=True)],
            }
            style = {"line_color": COLORS[curve.group % len(COLORS)], "legendgroup": str(curve.group)}
            trace = go.Scatter(x=curve.steps, y=curve.values, error_y=errors, name=names[curve.group], **style)
            trace.showlegend = column == 1
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="optimizer steps", row=1, col=column)
    for number in range(1, len(comparison.groups)):
        own = [bar for bar in bars(comparison) if bar.group == number]
        errors = {"array": [bar.high - bar.value for bar in own], "arrayminus": [bar.value - bar.low for bar in own]}
        figure.add_trace(
            go.Scatter(
                x=[bar.value for bar in own],
                y=[bar.label for bar in own],
                error_x=errors,
                mode="markers",
                name=names[number],
                legendgroup=str(number),
                showlegend=not panels,
                marker_color=COLORS[number % len(COLORS)],
            ),
            row=1,
            col=len(titles),
        )
    figure.add_vline(x=0, line_color="#888888", line_width=1, row=1, col=len(titles))
    figure.update_yaxes(autorange="reversed", row=1, col=len(titles))
    figure.update_xaxes(title_text="difference from the baseline", row=1, col=len(titles))
    figure.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.25}, height=520)
    return figure


def _names(comparison: Comparison) -> list[str]:
    """The groups as the legend names them."""
    return [group.label + (" (baseline)" if i == 0 else "") for i, group in enumerate(comparison.groups)]
