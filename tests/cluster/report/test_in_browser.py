"""The page in a real browser: charts, filters, themes, a phone, a live run, and text that tries to be a script."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.report.page import build, render
from tests.cluster.report import browser as browsers
from tests.cluster.report.browser import Browser
from tests.cluster.report.recorded_runs import FORMULA, HOSTILE, make_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = browsers.find()
    if path is None:
        pytest.skip("no chromium or google-chrome on PATH")
    with browsers.browser(path, tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """The browser with the page of a run of 40 steps; it is opened once, because that takes seconds."""
    base = tmp_path_factory.mktemp("page")
    file = base / "report.html"
    file.write_text(render(build(make_run(base, steps=40), groups=60)))
    browser.set_viewport(1280, 900)
    browser.open(file.as_uri())
    return browser


@pytest.fixture(autouse=True)
def no_errors(browser: Browser) -> Iterator[None]:
    """No test leaves an error on the console."""
    yield
    assert not browser.errors


def test_charts_are_drawn_without_a_network(page: Browser) -> None:
    charts = page.run("document.querySelectorAll('.plot').length")
    assert charts > 8 and page.run("Number(document.documentElement.dataset.charts)") == charts
    assert page.run("[...document.querySelectorAll('.plot')].every((p) => p.querySelector('svg path'))")
    last = "document.querySelector('#chart-reward .plot').data.at(-1).x.at(-1)"
    assert page.run(last) == 40
    page.run("document.querySelector('#axis [value=samples]').click()")
    page.wait(f"{last} === 320")
    assert not [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]


def test_filters(page: Browser) -> None:
    page.run(_filter("kind", "training"))
    shown = page.run("[...document.querySelectorAll('.group .where')].map((e) => e.textContent.split(',')[0])")
    assert set(shown) == {"training"}
    page.run(_filter("which", "gradient"))
    tallies = page.run("[...document.querySelectorAll('.group .tally')].map((e) => e.textContent)")
    assert tallies and set(tallies) == {"1 of 4 right"}
    page.run(_filter("which", "mixed"))
    page.run(_filter("verdict", "failed"))
    assert page.run("document.querySelectorAll('.group').length") == 0
    page.run(_filter("verdict", "truncated"))
    page.run("document.querySelector('.group').open = true")
    page.wait("document.querySelector('.sample')")
    assert page.run("document.querySelectorAll('.sample').length") == 1  # the one that was cut

    keys = "document.querySelectorAll('#keys .key:not([hidden])').length"
    assert 0 < page.run(keys) < 40  # those that differ from the defaults
    page.run(_set("settings-filter", "query", "objective."))
    assert page.run(keys) > 5


def test_text_of_a_model_stays_text(page: Browser) -> None:
    page.run("document.getElementById('filters').reset()")
    page.run(_filter("kind", "training"))
    page.run("document.querySelectorAll('.group').forEach((group) => { group.open = true; })")
    page.wait("document.querySelectorAll('.sample .text').length > 8")
    texts = page.run("[...document.querySelectorAll('.sample .text')].map((e) => e.textContent)")
    assert HOSTILE in texts and FORMULA in texts
    assert HOSTILE in page.run("document.querySelector('.incidents').textContent")
    assert page.run("document.images.length") == 0
    assert page.run("window.hacked") is None


def test_the_policy_runs_no_script_in_text(page: Browser) -> None:
    """Second line of defense: even if such text were parsed as HTML, its script would not run."""
    page.run("document.body.insertAdjacentHTML('beforeend', `<img id=evil src='data:,' onerror='window.hacked = 1'>`)")
    page.run("new Promise((done) => setTimeout(done, 200))")
    assert page.run("window.hacked") is None
    page.run("document.getElementById('evil').remove()")
    assert all("Content Security Policy" in error for error in page.errors) and page.errors
    page.errors.clear()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_phone(page: Browser, dark: bool) -> None:
    """Nothing is wider than 360 pixels, and the theme is the system's until the reader chooses."""
    page.set_viewport(360, 740, dark=dark, phone=True)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.run("new Promise((done) => setTimeout(done, 300))")
    assert page.run("document.documentElement.scrollWidth") == 360
    wide = page.run(
        "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, .values, .text, svg, .plot') "
        "&& e.getBoundingClientRect().right > 361).map((e) => e.className || e.tagName)"
    )
    assert wide == []

    light = "getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'"
    line = "document.querySelector('#chart-reward .plot').data.at(-1).line.color"
    assert page.run(light) is not dark
    before = page.run(line)
    for _ in range(1 if dark else 2):  # system -> light -> dark
        page.run("document.getElementById('theme').click()")
    page.wait(f"({light}) === {str(dark).lower()} && {line} !== {before!r}")
    for _ in range(2 if dark else 1):
        page.run("document.getElementById('theme').click()")


def test_live(browser: Browser, tmp_path: Path) -> None:
    """A page that is served follows the run, keeps what the reader set, and its server ends at Ctrl-C."""
    whole = make_run(tmp_path, "whole", steps=30, rates={})
    growing = make_run(tmp_path, "growing", steps=3, planned=30, rates={}, finished=False)
    command = [sys.executable, "-m", "cluster.cli", "report", str(growing), "--live", "--port", "0", "--groups", "8"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ, preexec_fn=_interruptible
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            browser.set_viewport(1280, 900)
            browser.open(address)
            assert "3 of 30" in browser.run("document.querySelector('.eyebrow').textContent")
            browser.run("document.querySelector('#axis [value=time]').click()")
            browser.run(_filter("query", "problem 2"))
            shutil.copytree(whole / "groups", growing / "groups", dirs_exist_ok=True)
            shutil.copy(whole / "metrics.jsonl", growing / "metrics.jsonl")
            browser.wait("document.querySelector('.eyebrow').textContent.includes('30 of 30')")
            browser.wait("document.querySelector('#chart-reward .plot').data.at(-1).x.at(-1) === 1.25")  # minutes
            assert browser.run("document.getElementById('filters').elements.query.value") == "problem 2"
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=10) == 0


def _interruptible() -> None:
    """Ctrl-C reaches a server whose parent was started in the background, where a shell ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _filter(name: str, value: str) -> str:
    return _set("filters", name, value)


def _set(form: str, name: str, value: str) -> str:
    """Sets one field of a form, as a reader does."""
    return (
        f"(() => {{ const f = document.getElementById('{form}').elements.{name}; f.value = {value!r}; "
        "f.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
