"""The pages of docs/evidence are what their scripts write, and every interval quoted elsewhere is on such a page."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coscaling import by_cell, load
from benchmarks.coscaling import write_page as write_coscaling
from benchmarks.frontier import regimes
from benchmarks.frontier.choice import curve
from benchmarks.frontier.counts import Key, Store
from benchmarks.frontier.page import write_page as write_frontier
from benchmarks.frontier.plan import Plan
from benchmarks.frontier.plan import load as load_plan
from benchmarks.frontier.tables import values
from benchmarks.objectives.experiments import EXPERIMENTS
from benchmarks.objectives.page import write_page
from benchmarks.objectives.results import Result, Results
from benchmarks.planned.contrasts import holm
from benchmarks.planned.plan import Contrast
from benchmarks.programs.counts import Store as ProgramStore
from benchmarks.programs.page import write_page as write_programs
from benchmarks.programs.plan import load as load_programs
from benchmarks.refresh.measures import Measures
from benchmarks.refresh.page import write_page as write_refresh
from benchmarks.refresh.plan import load as load_refresh
from benchmarks.refresh.results import Courses, Evaluations
from cluster.config import load_config
from learner import paired_difference_of_runs
from learner.metrics import paired_p_value, pass_at_k
from verifiers.tasks.registry import make_task

INTERVAL = re.compile(r"([+-]?\d+\.\d+)(?:\*\*)?(?: points)? \[([+-]?\d+\.\d+), ([+-]?\d+\.\d+)\]")


Pairs = dict[str, tuple[np.ndarray, np.ndarray]]
PLANNED = [
    ("countdown-small", "frontier"),
    ("countdown-hard", "frontier-hard"),
    ("countdown-larger", "frontier-larger"),
    ("countdown-methods", "methods"),
]


@pytest.fixture(scope="module")
def evidence(repository: Path) -> Path:
    return repository / "docs" / "evidence"


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
    write_coscaling(tmp_path, by_cell(load(evidence / "coscaling" / "counts.parquet")))
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
@pytest.mark.parametrize(("name", "page"), [*PLANNED, ("gsm8k-small", "gsm8k-small")])
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
            cut.add(key, result)
    write_page(tmp_path / "page", "lenient", cut, list(EXPERIMENTS["lenient"].names))
    assert "3 contenders; left out because not all of their seeds have run: pass8" in capsys.readouterr().out
    assert "pass@8 (loo)" not in (tmp_path / "page" / "README.md").read_text()


@pytest.mark.slow
def test_the_base_model_on_the_hard_level_is_as_the_plan_says(evidence: Path, repository: Path) -> None:
    counts = load(evidence / "coscaling" / "counts.parquet")["base", 0, 1.0]
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
    assert {model: cell.right.shape for (model, _), cell in by_cell(counts).items()} == {
        "base": (1, 1),
        "a": (2, 1),
        "b": (2, 1),
    }


def test_the_statements_on_early_stopping_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    """Figures of the section that no table of a page has."""
    plan = load_plan(repository / "benchmarks/frontier/countdown-small.yaml")
    store = Store(evidence / "frontier" / "counts.parquet", plan.digest)
    page = " ".join((evidence / "README.md").read_text().split())
    points = {}
    for name, rate in product(plan.contenders, plan.rates):
        runs = [curve(store, plan, name, rate, seed) for seed in plan.seeds]
        for step in runs[0]:
            points[name, rate, step] = [np.mean([run[step].pass_at(k).mean() for run in runs]) for k in (8, 1)]
    best = {name: max(point for key, point in points.items() if key[0] == name) for name in plan.contenders}
    assert f"no point of ordinary RL is above {best['mean'][0]:.3f} at k = 8" in page
    assert f"reaches {best['pass8'][0]:.3f}, with a pass@1 of {best['pass8'][1]:.2f}" in page
    late = points["mean", 3e-5, 100]
    assert f"has {late[0]:.3f} with a pass@1 of {late[1]:.2f}" in page
    base = store.get(Key("base", 0.0, 0, 0, "test", 0.8))
    many = load(evidence / "coscaling" / "counts.parquet")["base", 0, 0.8]
    lower = {k: base.pass_at(k)[:256].mean() - np.mean([pass_at_k(128, c, k) for c in many]) for k in (8, 16)}
    assert f"is {lower[16]:.3f} lower at k = 16 and {lower[8]:.3f} at k = 8" in page
    share, prompts = _lead_on_rarely_solved(store, plan, "pass8", 8)
    assert f"{100 * prompts:.0f} % of the prompts" in page and "five sixths" in page
    assert share == pytest.approx(5 / 6, abs=0.03)
    easy = [_value_on_easy(store, plan, name, 8) for name in ("base", *plan.contenders)]
    assert "all models have a pass@8 of 0.98 or more" in page and min(easy) >= 0.98
    hard_plan = load_plan(repository / "benchmarks/frontier/countdown-hard.yaml")
    hard_store = Store(evidence / "frontier-hard" / "counts.parquet", hard_plan.digest)
    share, prompts = _lead_on_rarely_solved(hard_store, hard_plan, "pass16", 16)
    assert f"{100 * share:.0f} % of it (k = 16)" in page and f"are {100 * prompts:.0f} % of the prompts" in page
    easy = [_value_on_easy(hard_store, hard_plan, name, 16) for name in ("base", *hard_plan.contenders)]
    assert "all models have a pass@16 above 0.99" in page and min(easy) > 0.99


@pytest.mark.parametrize(
    ("name", "page", "contender", "ks"),
    [
        ("countdown-hard", "frontier-hard", "pass16", (16, 32)),
        ("countdown-larger", "frontier-larger", "pass16", (16,)),
        ("countdown-small", "frontier", "pass8", (8, 16)),
    ],
)
def test_the_base_model_is_shown_at_its_best_temperature_of_the_test_split(
    name: str, page: str, contender: str, ks: tuple[int, ...], evidence: Path, repository: Path
) -> None:
    plan = load_plan(repository / f"benchmarks/frontier/{name}.yaml")
    store = Store(evidence / page / "counts.parquet", plan.digest)
    text = (evidence / "README.md").read_text().replace("−", "-")
    for k in ks:
        base = {t: store.get(Key("base", 0.0, 0, 0, "test", t)).pass_at(k) for t in (0.4, 0.6, 0.8, 1.0)}
        best = max(base, key=lambda t: base[t].mean())
        gain = paired_difference_of_runs(base[best][None], values(store, plan, contender, k))
        assert f"| {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] ({best:g}) |" in text


def test_the_statements_on_the_larger_model_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    page = " ".join((evidence / "README.md").read_text().split())
    plan = load_plan(repository / "benchmarks/frontier/countdown-larger.yaml")
    store = Store(evidence / "frontier-larger" / "counts.parquet", plan.digest)
    share, prompts = _lead_on_rarely_solved(store, plan, "pass16", 16)
    assert f"{100 * share:.0f} % of it from the {100 * prompts:.0f} % of the prompts" in page
    errors = [
        store.get(Key("base", 0.0, 0, 0, "validation", t)).pass_at(16).std(ddof=1) / np.sqrt(128) for t in (0.4, 0.8)
    ]
    assert f"with standard errors of {errors[0]:.3f}" in page and f"{errors[1]:.3f}" == f"{errors[0]:.3f}"
    assert min(_value_on_easy(store, plan, name, 16) for name in ("base", *plan.contenders)) > 0.9


def _value_on_easy(store: Store, plan: Plan, name: str, k: int) -> float:
    """pass@k on the test prompts that the base model solves in more than 30 % of its answers."""
    base = store.get(Key("base", 0.0, 0, 0, "test", 0.8))
    return float(values(store, plan, name, k)[:, base.right_P > 0.3 * base.samples].mean())


def _lead_on_rarely_solved(store: Store, plan: Plan, contender: str, k: int) -> tuple[float, float]:
    """Shares of the lead over the mean, and of the prompts, where the base model is right in at most 10 %."""
    base = store.get(Key("base", 0.0, 0, 0, "test", 0.8))
    rarely = base.right_P <= 0.1 * base.samples
    lead_P = (values(store, plan, contender, k) - values(store, plan, "mean", k)).mean(axis=0)
    return lead_P[rarely].sum() / lead_P.sum(), rarely.mean()


def test_the_statements_on_temperature_and_tuning_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    """Comparisons of the tuned models with the samples of co-scaling on the same 256 prompts, at k = 8."""
    page = " ".join((evidence / "README.md").read_text().replace("−", "-").split())
    plan = load_plan(repository / "benchmarks/frontier/countdown-small.yaml")
    store = Store(evidence / "frontier" / "counts.parquet", plan.digest)
    cells = by_cell(load(evidence / "coscaling" / "counts.parquet"))
    tuned_SP, base_SP = (values(store, plan, name, 8)[:, :256] for name in ("pass8", "base"))
    assert f"On the first 256 prompts it is {tuned_SP.mean() - base_SP.mean():.3f}," in page
    gain = paired_difference_of_runs(cells["base", 0.4].pass_at(8), tuned_SP)
    assert f"{gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})" in page and gain.low < 0
    readme = " ".join((repository / "README.md").read_text().split())
    assert f"this gain is {gain.value:.3f}, and its interval contains 0" in readme
    untuned = cells["pass8", 0.8].pass_at(8).mean()
    assert f"have {untuned:.3f} and the tuned ones (7e-5) {tuned_SP.mean():.3f}" in page
    assert cells["pass8", 0.4].pass_at(8).mean() < untuned
    best = {
        rate: np.mean(
            [max(c.pass_at(8).mean() for c in curve(store, plan, "pass8", rate, s).values()) for s in plan.seeds]
        )
        for rate in (3e-5, 7e-5)
    }
    assert f"the two rates differ by {best[7e-5] - best[3e-5]:.3f} at the chosen steps" in page


def test_the_page_names_the_verdicts_that_change_over_the_contrasts_of_all_plans(
    evidence: Path, repository: Path
) -> None:
    by_plan = [*_frontier_pairs(evidence, repository), *_other_pairs(evidence, repository)]
    raw = {name: paired_p_value(*pair) for pairs in by_plan for name, pair in pairs.items()}
    within = [p for pairs in by_plan for p in holm([raw[name] for name in pairs], len(pairs))]
    over_all = dict(zip(raw, holm([*raw.values()], len(raw)), strict=True))
    assert [len(pairs) for pairs in by_plan] == [3, 3, 2, 4, 2, 3]
    changed = {name: p for (name, p), own in zip(over_all.items(), within, strict=True) if (p < 0.05) != (own < 0.05)}
    assert set(changed) == {"frontier-hard: pass16 minus mean at 32", "variational minus exact"}
    page = " ".join((evidence / "README.md").read_text().split())
    first, second = changed.values()
    assert f"hard problems at 32 answers (p {first:.3f})" in page
    assert f"the variational minus the exact form (p {second:.3f})" in page


def _frontier_pairs(evidence: Path, repository: Path) -> list[Pairs]:
    """Both sides of the primary contrasts of each plan, by name."""
    found = []
    for name, page in PLANNED:
        plan = load_plan(repository / f"benchmarks/frontier/{name}.yaml")
        store = Store(evidence / page / "counts.parquet", plan.digest)
        found.append(
            {
                f"{page}: {c.contender} minus {c.against} at {c.k}": (
                    values(store, plan, c.against, c.k),
                    values(store, plan, c.contender, c.k),
                )
                for c in plan.primary
            }
        )
    return found


def _other_pairs(evidence: Path, repository: Path) -> list[Pairs]:
    """The same of the refreshed verifiers and of imitation with a learned verifier."""
    plan, folder = load_refresh(repository / "benchmarks/refresh/countdown.yaml"), evidence / "refresh"
    measures = Measures(
        plan, Evaluations(folder / "evaluations.parquet", plan.digest), Courses(folder / "courses.parquet", plan.digest)
    )
    refresh = {
        f"{c.value}: {c.contender} minus {c.against}": (
            measures.value(c.against, c.value, c.k),
            measures.value(c.contender, c.value, c.k),
        )
        for c in plan.primary
    }
    runs = _imitation_by_verifier(evidence)
    best_of_8 = {name: np.stack([run.value("best_of_k", 8) for run in found]) for name, found in runs.items()}
    imitation = {
        f"{c.contender} minus {c.against}": (best_of_8[c.against], best_of_8[c.contender])
        for c in EXPERIMENTS["imitation-learned"].primary
    }
    return [refresh, imitation]


def _imitation_by_verifier(evidence: Path) -> dict[str, list[Result]]:
    """The runs on the test split, by contender."""
    results = Results(evidence / "imitation-learned" / "runs.parquet")
    found: dict[str, list[Result]] = {}
    for key, result in results.items():
        if key.split == "test":
            found.setdefault(key.contender, []).append(result)
    return found


def test_the_statements_on_rates_and_neighbors_in_k_follow_from_the_runs(evidence: Path) -> None:
    runs = dict(_test_runs(evidence / "objectives"))
    page = " ".join((evidence / "README.md").read_text().split())

    def by_run(name: str, k: int) -> np.ndarray:
        return np.stack([runs[name, seed].value("pass_at_k", k) for seed in range(3)])

    kept = []
    for name, k in (("pass4-loo", 4), ("pass8-loo", 8), ("pass16-loo1", 16)):
        gain, slow = (by_run(name, k).mean() - by_run(mean, k).mean() for mean in ("mean", "mean-slow"))
        kept.append(f"{100 * slow / gain:.0f} % ")
    assert f"{kept[0]}is left for pass@4 at k = 4" in page
    assert f"{kept[1]}for pass@8 at k = 8 and {kept[2]}for pass@16 at k = 16" in page
    near = ("pass4-loo", "pass8-loo", "mixture", "rlb-p")
    means = [by_run(name, 8).mean() for name in near]
    differences = [paired_difference_of_runs(by_run(a, 8), by_run(b, 8)) for a, b in combinations(near, 2)]
    assert f"within {max(means) - min(means):.3f} of each other" in page
    assert f"differences reach to {max(max(-d.low, d.high) for d in differences):.2f}" in page


def test_the_statements_on_right_answers_after_imitation_follow_from_the_runs(evidence: Path) -> None:
    page = " ".join((evidence / "README.md").read_text().split())
    runs = _imitation_by_verifier(evidence)
    of = {
        (name, k): np.mean([run.value("pass_at_k", k).mean() for run in found])
        for name, found in runs.items()
        for k in (8, 64)
    }
    at_8, at_64 = ([f"{of[name, k]:.3f}" for name in ("exact", "variational", "base", "sft")] for k in (8, 64))
    assert f"pass@8 is {at_8[0]} with the exact and {at_8[1]} with the variational form, {at_8[2]} before" in page
    assert f"training and {at_8[3]} with SFT; pass@64 is {', '.join(at_64[:3])} and {at_64[3]}" in page
    learned = Results(evidence / "learned" / "runs.parquet")
    (base,) = (result for key, result in learned.items() if key.contender == "base")
    assert np.array_equal(base.values["best_of_k"], runs["base"][0].values["best_of_k"])  # the same verifier, too
    assert "learned and imitation-learned have the same verifier" in page


def test_where_the_learned_verifier_accepts_more_wrong_answers(evidence: Path) -> None:
    results = dict(_test_runs(evidence / "learned"))
    base, rise, of_few, few = results["base", 0].fooled, 0.0, 0.0, []
    for seed in range(3):
        run = results["mean", seed]
        wrong_P = 1 - run.value("pass_at_k", 1)
        known_P = ~np.isnan(run.fooled) & ~np.isnan(base)
        more_P = (run.fooled - base)[known_P]
        rise, of_few = rise + more_P.sum(), of_few + more_P[wrong_P[known_P] <= 0.1].sum()
        few.append((wrong_P[known_P] <= 0.1).mean())
    page = " ".join((evidence / "README.md").read_text().split())
    assert of_few / rise == pytest.approx(0.75, abs=0.03) and "Three quarters of that rise" in page
    assert f"on the {100 * np.mean(few):.0f} % of the prompts" in page


def test_the_pages_name_the_runs_that_they_share(evidence: Path) -> None:
    grids = {name: dict(_test_runs(evidence / name)) for name in ("objectives", "lenient", "learned", "staleness")}
    for name in ("lenient", "learned"):
        pairs = [("pass8", "pass8-loo"), ("mean", "mean"), ("base", "base")]
        for (mine, theirs), seed in product(pairs, range(3)):
            if mine != "base" or seed == 0:
                found, known = (
                    grids[g][c, seed].values["pass_at_k"] for g, c in ((name, mine), ("objectives", theirs))
                )
                assert np.array_equal(found, known)
        assert "are those of the page `objectives`" in (evidence / name / "README.md").read_text()
    entropies = [[grids["staleness"][c, s].series["policy/entropy"] for c in ("keep", "finish")] for s in range(3)]
    equal = [int(np.argmin(np.append(one == other, False))) for one, other in entropies]
    page = (evidence / "staleness" / "README.md").read_text()
    assert f"the first {equal[0]}, {equal[1]} and all {equal[2]} steps" in page


def _test_runs(folder: Path) -> list[tuple[tuple[str, int], Result]]:
    """By contender and seed; the controls at another rate have names of their own."""
    found = Results(folder / "runs.parquet").items()
    return [((key.contender, key.seed), result) for key, result in found if key.split == "test"]


def test_the_splits_share_no_prompt_and_the_pages_share_test_prompts(evidence: Path, repository: Path) -> None:
    local = repository / "cluster" / "presets" / "local.yaml"
    tasks = [
        make_task(load_config(local, keys).task) for keys in ([], ["task.difficulty={easy: 0, medium: 0, hard: 1}"])
    ]
    test, hard = ([prompt.text for prompt in task.prompts("test")] for task in tasks)
    for task in tasks:
        splits = [{prompt.text for prompt in task.prompts(split)} for split in ("train", "validation", "test")]
        assert not any(a & b for a, b in combinations(splits, 2))
    shared = len({*hard[:256]} & {*test})
    page = " ".join((evidence / "README.md").read_text().split())
    assert f"{shared} of the 256 of frontier-hard" in page and f"the {len(test):,} of the first table" in page


def test_every_quoted_interval_is_on_a_page(repository: Path, evidence: Path) -> None:
    """With either sign of the difference."""
    pages = [page.read_text() for page in evidence.glob("*/README.md")]
    known = {size for page in pages for size in _intervals(page)}
    readme = (repository / "README.md").read_text()
    section = readme[readme.index("## What each objective gains and costs") : readme.index("## Common commands")]
    headline = readme[readme.index("**What it gains.**") : readme.index("## Quick start")]
    assert len(_intervals(headline)) == 11, "each figure of the headline has its interval"
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
