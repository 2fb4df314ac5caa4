"""Statements of docs/evidence/README.md that stand on no page follow from the committed figures."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coscaling import Key as CoscalingKey
from benchmarks.coscaling import Store as Coscaling
from benchmarks.coscaling import by_cell
from benchmarks.frontier.choice import curve
from benchmarks.frontier.counts import Counts, Key, Store
from benchmarks.frontier.plan import Plan
from benchmarks.frontier.plan import load as load_plan
from benchmarks.frontier.tables import values
from benchmarks.objectives.experiments import EXPERIMENTS
from benchmarks.objectives.results import Result, Results
from benchmarks.planned.contrasts import holm
from benchmarks.programs.counts import Key as ProgramKey
from benchmarks.programs.counts import Store as ProgramStore
from benchmarks.programs.plan import AFTER, BEFORE
from benchmarks.programs.plan import Contrast as ProgramContrast
from benchmarks.programs.plan import load as load_programs
from benchmarks.refresh.measures import Measures
from benchmarks.refresh.plan import load as load_refresh
from benchmarks.refresh.results import Courses, Evaluations
from cluster.config import load_config
from learner import paired_difference_of_runs
from learner.metrics import Difference, paired_p_value, pass_at_k
from tests.benchmarks.test_evidence import PLANNED
from verifiers.tasks.registry import make_task

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]
PAGES = dict(PLANNED)


def _measured(evidence: Path, repository: Path, name: str) -> tuple[Store, Plan]:
    """The counts and the plan of a comparison along training."""
    plan = load_plan(repository / f"benchmarks/frontier/{name}.yaml")
    return Store(evidence / PAGES[name] / "counts.parquet", plan.digest), plan


def test_the_statements_on_early_stopping_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    """Figures of the section that no table of a page has."""
    store, plan = _measured(evidence, repository, "countdown-small")
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
    many = Coscaling(evidence / "coscaling" / "counts.parquet").get(CoscalingKey("base", 0, 0.8))
    lower = {k: base.pass_at(k)[:256].mean() - np.mean([pass_at_k(128, c, k) for c in many]) for k in (8, 16)}
    assert f"is {lower[16]:.3f} lower at k = 16 and {lower[8]:.3f} at k = 8" in page
    share, prompts = _lead_on_rarely_solved(store, plan, "pass8", 8)
    assert f"{100 * prompts:.0f} % of the prompts" in page and "five sixths" in page
    assert share == pytest.approx(5 / 6, abs=0.03)
    easy = [_value_on_easy(store, plan, name, 8) for name in ("base", *plan.contenders)]
    assert "all models have a pass@8 of 0.98 or more" in page and min(easy) >= 0.98
    hard_store, hard_plan = _measured(evidence, repository, "countdown-hard")
    share, prompts = _lead_on_rarely_solved(hard_store, hard_plan, "pass16", 16)
    assert f"{100 * share:.0f} % of it (k = 16)" in page and f"are {100 * prompts:.0f} % of the prompts" in page
    easy = [_value_on_easy(hard_store, hard_plan, name, 16) for name in ("base", *hard_plan.contenders)]
    assert "all models have a pass@16 above 0.99" in page and min(easy) > 0.99


@pytest.mark.parametrize(
    ("name", "contender", "ks"),
    [
        ("countdown-hard", "pass16", (16, 32)),
        ("countdown-larger", "pass16", (16,)),
        ("countdown-small", "pass8", (8, 16)),
    ],
)
def test_the_base_model_is_shown_at_its_best_temperature_of_the_test_split(
    name: str, contender: str, ks: tuple[int, ...], evidence: Path, repository: Path
) -> None:
    store, plan = _measured(evidence, repository, name)
    text = (evidence / "README.md").read_text().replace("−", "-")
    for k in ks:
        base = {t: store.get(Key("base", 0.0, 0, 0, "test", t)).pass_at(k) for t in (0.4, 0.6, 0.8, 1.0)}
        best = max(base, key=lambda t: base[t].mean())
        gain = paired_difference_of_runs(base[best][None], values(store, plan, contender, k))
        assert f"| {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] ({best:g}) |" in text


def test_the_statements_on_the_larger_model_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    page = " ".join((evidence / "README.md").read_text().split())
    store, plan = _measured(evidence, repository, "countdown-larger")
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


def test_the_statements_on_the_entropy_bonus_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    store, plan = _measured(evidence, repository, "countdown-entropy")
    hard, hard_plan = _measured(evidence, repository, "countdown-hard")
    page = " ".join((evidence / "README.md").read_text().split()).replace("−", "-")
    along = [_along_training(store, plan, "entropy", step) for step in (25, 50, 75, 100)]
    assert f"stays between {min(along):.3f} and {max(along):.3f}" in page
    first, last = (_along_training(hard, hard_plan, "mean", step) for step in (50, 100))
    assert f"falls from {first:.3f} to {last:.3f} between steps 50 and 100" in page
    bonus = paired_difference_of_runs(values(hard, hard_plan, "mean", 16), values(store, plan, "entropy", 16))
    assert f"changes pass@16 by {bonus.value:.3f} ({bonus.low:.3f} to {bonus.high:.3f};" in page
    tested = {name: np.stack([c.pass_at(1) for _, c in _tested(store, name)]) for name in plan.contenders}
    one = paired_difference_of_runs(tested["entropy"], tested["pass16"])
    assert f"best for 16 ({one.value:.3f}, from {one.low:.3f} to {one.high:.3f};" in page


def test_the_pilot_of_the_entropy_bonus_is_as_the_plan_says(evidence: Path, repository: Path) -> None:
    plan = load_plan(repository / "benchmarks/frontier/pilots/countdown-entropy.yaml")
    store = Store(evidence / "frontier-entropy" / "pilot.parquet", plan.digest)
    best = {
        name: max(c.pass_at(16).mean() for c in curve(store, plan, name, 3e-5, 100).values())
        for name in plan.contenders
    }
    page = " ".join((evidence / "plan.md").read_text().split())
    assert "pass@16 was {ent01:.3f}, {ent03:.3f} and {ent10:.3f} with the three bonuses".format(**best) in page
    assert "and {kl01:.3f} and {kl05:.3f} with the KL terms".format(**best) in page


def test_pass16_training_with_the_same_seeds_gave_the_same_answers(evidence: Path, repository: Path) -> None:
    """On another machine, in another plan."""
    store, plan = _measured(evidence, repository, "countdown-entropy")
    hard, hard_plan = _measured(evidence, repository, "countdown-hard")
    both = [(c, hard.get(key)) for key, c in store.items() if key.contender != "entropy" and key.split != "test"]
    equal = [earlier is not None and np.array_equal(c.right_P, earlier.right_P) for c, earlier in both]
    assert all(equal)
    assert f"all {len(equal)} evaluations of it" in " ".join((evidence / "README.md").read_text().split())
    for key, c in _tested(store, "pass16"):
        earlier = hard.get(key)
        assert earlier is not None and (c.samples, earlier.samples) == (32, 64)
        assert ((c.right_P <= earlier.right_P) & (earlier.right_P <= c.right_P + 32)).all()


def _along_training(store: Store, plan: Plan, name: str, step: int) -> float:
    """pass@16 at a rate of 3e-5 on validation, mean over seeds."""
    return float(np.mean([curve(store, plan, name, 3e-5, seed)[step].pass_at(16).mean() for seed in plan.seeds]))


def _tested(store: Store, name: str) -> list[tuple[Key, Counts]]:
    """The evaluations of a contender on the test split, by seed."""
    return sorted(
        ((key, c) for key, c in store.items() if (key.contender, key.split) == (name, "test")), key=lambda x: x[0]
    )


def _lead_on_rarely_solved(store: Store, plan: Plan, contender: str, k: int) -> tuple[float, float]:
    """Shares of the lead over the mean, and of the prompts, where the base model is right in at most 10 %."""
    base = store.get(Key("base", 0.0, 0, 0, "test", 0.8))
    rarely = base.right_P <= 0.1 * base.samples
    lead_P = (values(store, plan, contender, k) - values(store, plan, "mean", k)).mean(axis=0)
    return lead_P[rarely].sum() / lead_P.sum(), rarely.mean()


def test_the_statements_on_temperature_and_tuning_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    """Comparisons of the tuned models with the samples of co-scaling on the same 256 prompts, at k = 8."""
    page = " ".join((evidence / "README.md").read_text().replace("−", "-").split())
    store, plan = _measured(evidence, repository, "countdown-small")
    cells = by_cell(Coscaling(evidence / "coscaling" / "counts.parquet").items())
    tuned_SP, base_SP = (values(store, plan, name, 8)[:, :256] for name in ("pass8", "base"))
    assert f"On the first 256 prompts it is {tuned_SP.mean() - base_SP.mean():.3f}," in page
    gain = paired_difference_of_runs(cells["base", 0.4].pass_at(8), tuned_SP)
    assert f"{gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})" in page and gain.low < 0
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


def test_the_statements_on_the_weighted_sum_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    store, plan = _measured(evidence, repository, "countdown-weighted")
    frontier, small = _measured(evidence, repository, "countdown-small")
    page = " ".join((evidence / "README.md").read_text().split()).replace("−", "-")

    def minus_ordinary(name: str, k: int) -> Difference:
        return paired_difference_of_runs(values(frontier, small, "mean", k), values(store, plan, name, k))

    one, eight = minus_ordinary("weighted", 1), minus_ordinary("weighted", 8)
    assert f"not worse at one answer ({one.value:.3f}, from {one.low:.3f} to {one.high:.3f})" in page
    assert f"better at eight ({eight.value:+.3f}, from {eight.low:.3f} to {eight.high:.3f})" in page
    one, eight = minus_ordinary("pass8", 1), minus_ordinary("pass8", 8)
    assert f"it is {eight.value:+.3f} ({eight.low:.3f} to {eight.high:.3f}) at eight answers" in page
    assert f"and {one.value:.3f} ({one.low:.3f} to {one.high:.3f}) at one" in page


def test_the_statements_on_longer_training_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    store, plan = _measured(evidence, repository, "countdown-long")
    frontier, small = _measured(evidence, repository, "countdown-small")
    page = " ".join((evidence / "README.md").read_text().split()).replace("−", "-")

    def minus_shorter(name: str) -> Difference:
        return paired_difference_of_runs(values(frontier, small, name, 8), values(store, plan, name, 8))

    more, mean = minus_shorter("pass8"), minus_shorter("mean")
    assert f"is {more.value:+.3f} ({more.low:.3f} to {more.high:.3f}; two plans" in page
    assert f"find: {mean.value:+.3f} ({mean.low:.3f} to {mean.high:.3f}) over its result" in page
    base = store.get(Key("base", 0.0, 0, 0, "test", 0.4))
    lead_P = (values(store, plan, "pass8", 8) - values(store, plan, "mean", 8)).mean(axis=0)
    rare_P = base.right_P <= 0.1 * base.samples
    assert f"{lead_P[rare_P].sum() / lead_P.sum():.0%}".replace("%", " %") == "92 %"
    assert f"92 % of it from the {100 * rare_P.mean():.0f} % of the prompts" in page
    shorter = frontier.get(Key("base", 0.0, 0, 0, "test", 0.4))
    assert np.array_equal(base.right_P, shorter.right_P), "the same answers of the base model"


def test_the_statements_on_known_error_rates_follow_from_the_counts(evidence: Path, repository: Path) -> None:
    store, plan = _measured(evidence, repository, "countdown-errors")
    true, weighted = _measured(evidence, repository, "countdown-weighted")
    page = " ".join((evidence / "README.md").read_text().split()).replace("−", "-")

    def minus_true_verdicts(name: str, k: int) -> Difference:
        return paired_difference_of_runs(values(true, weighted, "pass8", k), values(store, plan, name, k))

    for name, first, second in (
        ("accepted", "pass@8 of the verdicts is", "at eight answers and"),
        ("corrected", "with the correction it is", "and"),
    ):
        eight, one = minus_true_verdicts(name, 8), minus_true_verdicts(name, 1)
        at_eight = f"{eight.value:.3f} ({eight.low:.3f} to {eight.high:.3f})"
        assert f"{first} {at_eight} {second} {one.value:.3f} ({one.low:.3f} to {one.high:.3f})" in page


def test_the_fine_tuned_model_passes_the_gate_of_gsm8k(evidence: Path, repository: Path) -> None:
    store, plan = _measured(evidence, repository, "gsm8k-small")
    counts = store.get(Key("base", 0.0, 0, 0, "validation", 1.0))
    found = {k: counts.pass_at(k).mean() for k in (1, 8, 16)}
    assert 0.15 <= found[16] <= 0.70
    page = " ".join((evidence / "plan.md").read_text().split())
    assert f"its pass@16 is {found[16]:.3f} (pass@1 {found[1]:.3f}, pass@8 {found[8]:.3f})" in page


def test_the_page_names_the_verdicts_that_change_over_the_contrasts_of_all_plans(
    evidence: Path, repository: Path
) -> None:
    by_plan = [*_frontier_pairs(evidence, repository), *_other_pairs(evidence, repository), _program_pairs(evidence)]
    raw = {name: paired_p_value(*pair) for pairs in by_plan for name, pair in pairs.items()}
    within = [p for pairs in by_plan for p in holm([raw[name] for name in pairs], len(pairs))]
    over_all = dict(zip(raw, holm([*raw.values()], len(raw)), strict=True))
    assert [len(pairs) for pairs in by_plan] == [3, 3, 2, 1, 4, 2, 2, 2, 1, 2, 3, 2]
    changed = {name: p for (name, p), own in zip(over_all.items(), within, strict=True) if (p < 0.05) != (own < 0.05)}
    said = {
        "frontier-hard: pass16 minus mean at 32": "hard problems at 32 answers",
        "frontier-errors: corrected minus accepted at 8": "the correction for error rates at eight",
        "variational minus exact": "the variational minus the exact form",
    }
    page = " ".join((evidence / "README.md").read_text().split())
    assert changed.keys() == said.keys()
    assert all(f"{said[name]} (p {p:.3f})" in page for name, p in changed.items())
    assert f"Over all {len(raw)} it would change three verdicts" in page


def _frontier_pairs(evidence: Path, repository: Path) -> list[Pairs]:
    """Both sides of the primary contrasts of each plan, by name."""
    found = []
    for name, page in PLANNED:
        store, plan = _measured(evidence, repository, name)
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


def _program_pairs(evidence: Path) -> Pairs:
    """The same of the models before and after fine-tuning on programs."""
    plan = load_programs()
    counts = ProgramStore(evidence / "programs" / "counts.parquet", plan.digest)

    def value(model: str, c: ProgramContrast) -> np.ndarray:
        return counts.get(ProgramKey(model, c.task)).pass_at(c.k)[None]

    return {f"programs: {c.task} at {c.k}": (value(BEFORE, c), value(AFTER, c)) for c in plan.primary}


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
