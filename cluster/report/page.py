"""A run directory as one HTML page that needs no network: figures, data, styles and scripts are in the file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cluster.report.charts import axes, flat, learning_charts, running_charts
from cluster.report.configuration import settings
from cluster.report.evaluations import curves
from cluster.report.files import commands, files
from cluster.report.groups import browse
from cluster.report.headline import headline
from cluster.report.series import window_of
from cluster.report.source import Source
from cluster.report.timing import bottleneck, group_time, time_shares

SECTIONS = ("headline", "learning", "curves", "time", "groups", "settings")  # in the page's order
SCRIPTS = ("charts.js", "groups.js", "page.js")


@dataclass(frozen=True)
class Report:
    """Everything that a page says.

    view: for the templates. data: for the scripts, plain JSON.
    """

    view: dict[str, Any]
    data: dict[str, Any]


def build(path: Path, *, groups: int, seed: int = 0) -> Report:
    """Read a run and work out what its page shows.

    Raises:
        UsageError: there is no run at `path`.
    """
    source = Source.read(path)
    browsed, over_k = browse(source, groups, seed), curves(source)
    view = {
        "run": source.run.name,
        "headline": headline(source),
        "time": time_shares(source),
        "bottleneck": bottleneck(source),
        "group_time": group_time(source),
        "settings": settings(source),
        "versions": source.run.versions or {},
        "git": source.run.git or {},
        "files": files(source),
        "commands": commands(source),
        "groups": {key: value for key, value in browsed.items() if key != "groups"} | {"shown": len(browsed["groups"])},
        "trained_k": source.value("objective.k"),
        "flat": flat(source),
        "window": window_of(len(source.rows)),
    }
    data = {
        "axes": axes(source),
        "learning": learning_charts(source),
        "curves": over_k,
        "running": running_charts(source),
        "groups": browsed["groups"],
        "trained_k": view["trained_k"],
    }
    view |= {name: data[name] for name in ("learning", "curves", "running")}
    return Report(view, data)


def render(report: Report, *, live: str = "") -> str:
    """The whole page. The data are compressed: they hold text of a model, which must not be read as HTML.

    Args:
        live: version of a page that is served and asks for newer ones; empty for a file.
    """
    payload = packed(report.data)
    nonce = hashlib.sha256(payload.encode()).hexdigest()[:24]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            report.view,
            live=bool(live),
            version=live,
            nonce=nonce,
            data=payload,
            plotly=_plotly(),
            style=_file("page.css"),
            scripts=[_file(name) for name in SCRIPTS],
            sections=SECTIONS,
        )
    )


def render_sections(report: Report) -> dict[str, Any]:
    """What changes during a run: the HTML of each section, and the data."""
    templates = _templates()
    html = {name: templates.get_template(f"{name}.html.j2").render(report.view) for name in SECTIONS}
    return {"sections": html, "data": report.data}


def packed(data: Any) -> str:
    """JSON, compressed, as base64; the same bytes for the same data."""
    return _compressed(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def _compressed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


@cache
def _plotly() -> str:
    """plotly.js as it comes with plotly, compressed: 1.5 MB in place of 4.8."""
    return _compressed((resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes())


@cache
def _file(name: str) -> str:
    return (resources.files("cluster.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    """Every value is escaped; a name that is missing is an error."""
    return Environment(
        loader=PackageLoader("cluster.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
