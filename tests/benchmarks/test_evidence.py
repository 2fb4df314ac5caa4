"""The pages of docs/evidence are what their scripts write, and every interval quoted elsewhere is on such a page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coscaling import Key as CoscalingKey
from benchmarks.coscaling import Store as Coscaling
from benchmarks.coscaling import by_cell
from benchmarks.coscaling import write_page as write_coscaling
from benchmarks.frontier import regimes
from benchmarks.frontier.counts import Store
from benchmarks.frontier.page import write_page as write_frontier
from benchmarks.frontier.plan import load as load_plan
from benchmarks.objectives.experiments import EXPERIMENTS
from benchmarks.objectives.page import write_page
from benchmarks.objectives.results import Results
from benchmarks.planned.plan import Contrast
from benchmarks.programs.counts import Store as ProgramStore
from benchmarks.programs.page import write_page as write_programs
from benchmarks.programs.plan import load as load_programs
from benchmarks.refresh.measures import Measures
from benchmarks.refresh.page import write_page as write_refresh
from benchmarks.refresh.plan import load as load_refresh
from benchmarks.refresh.results import Courses, Evaluations
from cluster.config import load_config
from learner.metrics import pass_at_k
from verifiers.tasks.registry import make_task

PLANNED = [
    ("countdown-small", "frontier"),
    ("countdown-hard", "frontier-hard"),
    ("countdown-larger", "frontier-larger"),
    ("countdown-entropy", "frontier-entropy"),
    ("countdown-methods", "methods"),
    ("countdown-weighted", "frontier-weighted"),
    ("countdown-errors", "frontier-errors"),
    ("countdown-long", "frontier-long"),
    ("gsm8k-small", "gsm8k-small"),
]
INTERVAL = re.compile(r"([+-]?\d+\.\d+)(?:\*\*)?(?: points)? \[([+-]?\d+\.\d+), ([+-]?\d+\.\d+)\]")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_a_page_follows_from_the_committed_figures(name: str, evidence: Path, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    write_page(tmp_path, name, Results(evidence / experiment.grid / "runs.parquet"), list(experiment.names))
    page = (tmp_path / "README.md").read_text()
    assert page == (evidence / name / "README.md").read_text()
    assert f"This page has {len(_intervals(page))} intervals" in page


@pytest.mark.slow
def test_the_page_of_coscaling_follows_from_the_committed_counts(evidence: Path, tmp_path: Path) -> None:
    write_coscaling(tmp_path, by_cell(Coscaling(evidence / "coscaling" / "counts.parquet").items()))
    assert (tmp_path / "README.md").read_text() == (evidence / "coscaling" / "README.md").read_text()


@pytest.mark.slow
def test_one_figure_shows_the_comparisons_with_ordinary_rl(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    plans = {name: load_plan(repository / f"benchmarks/frontier/{name}.yaml") for name, _ in PLANNED}
    assert list(regimes.PAGES.items()) == [
        (name, page) for name, page in PLANNED if any(c.against == "mean" for c in plans[name].primary)
    ]
    regimes.main(tmp_path / "regimes.png")
    assert f"{len(regimes.PAGES)} panels" in capsys.readouterr().out
    assert (tmp_path / "regimes.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "page"), PLANNED)
def test_a_frontier_follows_from_the_committed_counts(
    name: str, page: str, evidence: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = Path(f"benchmarks/frontier/{name}.yaml"), Path("docs/evidence") / page
    plan = load_plan(repository / source)
    store = Store(evidence / page / "counts.parquet", plan.digest)
    monkeypatch.chdir(tmp_path)  # the page names its folder
    write_frontier(folder, store, plan, source)
    assert (folder / "README.md").read_text() == (evidence / page / "README.md").read_text()


@pytest.mark.slow
def test_the_page_on_programs_follows_from_the_committed_counts(evidence: Path, tmp_path: Path) -> None:
    store = ProgramStore(evidence / "programs" / "counts.parquet", load_programs().digest)
    write_programs(tmp_path, store, load_programs())
    assert (tmp_path / "README.md").read_text() == (evidence / "programs" / "README.md").read_text()


@pytest.mark.slow
def test_the_refresh_of_verifiers_follows_from_the_committed_measurements(
    evidence: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = Path("benchmarks/refresh/countdown.yaml"), Path("docs/evidence/refresh")
    plan, committed = load_refresh(repository / source), evidence / "refresh"
    evaluations = Evaluations(committed / "evaluations.parquet", plan.digest)
    found = Measures(plan, evaluations, Courses(committed / "courses.parquet", plan.digest))
    monkeypatch.chdir(tmp_path)  # the page names its folder
    write_refresh(folder, found, source)
    assert (folder / "README.md").read_text() == (committed / "README.md").read_text()


@pytest.mark.slow
def test_a_page_tests_the_contrasts_that_were_named_in_advance(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tuple(Contrast(contender=name, against="pass8", k=8) for name in ("best8", "mean"))
    monkeypatch.setitem(EXPERIMENTS, "lenient", replace(EXPERIMENTS["lenient"], primary=named))
    write_page(tmp_path, "lenient", Results(evidence / "lenient" / "runs.parquet"), ["pass8", "best8"])
    page = (tmp_path / "README.md").read_text()
    contrasts = page[page.index("## Primary contrasts") : page.index("## Values")]
    difference = page[page.index("## Difference to pass@8") :].splitlines()[4].split("|")[4]  # k = 8
    assert difference.replace("**", "").strip() in contrasts
    assert contrasts.count("not measured yet") == 1 and "All but the primary contrasts are descriptive" in page


@pytest.mark.slow
def test_a_page_of_an_unfinished_grid_names_what_it_leaves_out(evidence: Path, tmp_path: Path, capsys) -> None:
    kept = Results(evidence / "lenient" / "runs.parquet")
    cut = Results(tmp_path / "runs.parquet")
    for key, result in kept.items():
        if (key.contender, key.seed) != ("pass8", 2):  # the reference lacks a seed
            cut.add({key: result})
    write_page(tmp_path / "page", "lenient", cut, list(EXPERIMENTS["lenient"].names))
    assert "3 contenders; left out because not all of their seeds have run: pass8" in capsys.readouterr().out
    assert "pass@8 (loo)" not in (tmp_path / "page" / "README.md").read_text()


@pytest.mark.slow
def test_the_base_model_on_the_hard_level_is_as_the_plan_says(evidence: Path, repository: Path) -> None:
    counts = Coscaling(evidence / "coscaling" / "counts.parquet").get(CoscalingKey("base", 0, 1.0))
    task = make_task(load_config(repository / "cluster" / "presets" / "local.yaml").task)
    right = [int(c) for c, prompt in zip(counts, task.prompts("test"), strict=False) if prompt.level == "hard"]
    found = [f"{np.mean([pass_at_k(128, c, k) for c in right]):.3f}" for k in (1, 16, 64)]
    assert (len(right), found) == (57, ["0.047", "0.449", "0.754"])
    plan = (evidence / "plan.md").read_text()
    assert "57 test prompts" in plan and all(value in plan for value in found)


def test_seeds_that_only_some_models_have_are_left_out() -> None:
    counts = {
        (model, seed, 1.0): np.array([seed])
        for model, seeds in (("base", 1), ("a", 3), ("b", 2))
        for seed in range(seeds)
    }
    assert {model: cell.right.shape for (model, _), cell in by_cell(counts.items()).items()} == {
        "base": (1, 1),
        "a": (2, 1),
        "b": (2, 1),
    }


def test_every_quoted_interval_is_on_a_page(repository: Path, evidence: Path) -> None:
    """With either sign of the difference."""
    pages = [page.read_text() for page in evidence.glob("*/README.md")]
    known = {size for page in pages for size in _intervals(page)}
    readme = (repository / "README.md").read_text()
    section = readme[readme.index("## What each objective gains and costs") : readme.index("## Common commands")]
    headline = readme[readme.index("**What it gains.**") : readme.index("## Quick start")]
    assert len(_intervals(headline)) == 17, "each figure of the headline has its interval"
    quoted = [*_intervals(headline + section), *_intervals((evidence / "README.md").read_text())]
    assert len(quoted) > 50
    assert not [interval for interval in quoted if interval not in known]


def _intervals(text: str) -> list[tuple[float, ...]]:
    """(|value|, smaller and larger end with the value positive) of every `value [low, high]`."""
    found = []
    for match in INTERVAL.finditer(re.sub(r"\s+", " ", text.replace("−", "-"))):
        value, low, high = (float(part) for part in match.groups())
        if value > 0 and low > 0 or value >= 0 and low <= 0 <= high:
            found.append((value, low, high))
        else:
            found.append((-value, -high, -low))
    return found
