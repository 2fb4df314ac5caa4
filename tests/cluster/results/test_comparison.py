"""Comparing runs: groups of seeds, the intervals of each case, the choice of the best step, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.errors import UsageError
from cluster.results import compare, comparison, load_run
from cluster.results.change import Seeded, change
from cluster.results.figure import bars, check_figure, curves, write_figure
from learner.metrics import CurvePoint, paired_difference
from tests.cluster.results.recorded import evaluation_groups, make_run, write

MEAN = {"objective": {"strategy": "mean", "k": 1}}
A, B = "objective.strategy=pass_at_k, objective.k=2", "objective.strategy=mean, objective.k=1"


def runs(base: Path, *names: str, **options: Any) -> list[Path]:
    """Runs such as `pass-0`, `mean-1`: objective and seed."""
    return [
        make_run(base, name, MEAN if name.startswith("mean") else None, seed=int(name[-1]), **options) for name in names
    ]


def test_two_runs_are_compared_prompt_by_prompt(tmp_path: Path) -> None:
    one, other = runs(tmp_path, "pass-0"), runs(tmp_path, "mean-0", rates={0: 0.2, 1: 0.3, 2: 0.9})
    found = compare([*one, *other])
    assert [group.label for group in found.groups] == [A, B]
    assert found.objectives == {A: "eval/pass@2", B: "eval/reward_mean"} and found.warnings == []
    assert [(moment.at, moment.step) for moment in found.moments] == [("last", None), ("step", 0), ("step", 2)]
    last = found.moments[0]
    a, b = (load_run(run).evaluation(2) for run in (one[0], other[0]))
    order = np.argsort(a.prompt_ids)
    values = [next(p for p in e.curve if p.k == 2).values_P[order] for e in (a, b)]
    expected = paired_difference(*values)
    shown = last.changes["eval/pass@2", B]
    assert (shown.value, shown.low, shown.high, shown.method) == (*vars_of(expected), "prompts")
    assert last.values["eval/pass@2", A].low == next(p for p in a.curve if p.k == 2).low
    assert last.steps == {"pass-0": [2], "mean-0": [2]} and last.prompts == 12
    same = found.moments[1].changes["eval/pass@2", B]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def vars_of(found: Any) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def test_runs_that_differ_in_the_seed_are_one_group(tmp_path: Path) -> None:
    found = compare(runs(tmp_path, "pass-0", "mean-1", "pass-1", "mean-0"))
    assert [[run.name for run in group.runs] for group in found.groups] == [["pass-0", "pass-1"], ["mean-1", "mean-0"]]
    assert {change.method for change in found.moments[0].changes.values()} == {"seeds"}
    value = found.moments[0].values["eval/pass@2", A]
    expected = stats.t.interval(0.95, 1, np.mean(list(value.runs.values())), stats.sem(list(value.runs.values())))
    assert (value.low, value.high) == pytest.approx(expected)


def test_seeds_alone_are_compared_one_by_one(tmp_path: Path) -> None:
    found = compare(runs(tmp_path, "pass-0", "pass-1", "pass-2"))
    assert [group.label for group in found.groups] == ["run.seed=0", "run.seed=1", "run.seed=2"]
    assert {change.method for change in found.moments[0].changes.values()} == {"prompts"}


def test_runs_that_differ_in_more_than_the_seed_name_it_too(tmp_path: Path) -> None:
    found = compare(runs(tmp_path, "pass-0", "mean-1"))
    assert found.groups[1].label == f"run.seed=1, {B}"


def seeded(means: Sequence[float], seeds: Sequence[int]) -> list[Seeded]:
    rng = np.random.default_rng(3)
    return [Seeded(seed, mean + 0.1 * rng.standard_normal(20)) for seed, mean in zip(seeds, means, strict=True)]


def test_intervals_over_seeds_are_students_and_welchs() -> None:
    old, new = seeded([0.2, 0.25, 0.3], [0, 1, 2]), seeded([0.4, 0.41, 0.5], [2, 0, 1])
    means = [{run.seed: run.values_P.mean() for run in side} for side in (old, new)]
    paired = stats.ttest_rel([means[1][s] for s in range(3)], [means[0][s] for s in range(3)]).confidence_interval()
    found = change(old, new)
    assert (found.low, found.high) == pytest.approx(tuple(paired)) and found.method == "seeds" and found.runs == (3,)

    others = seeded([0.4, 0.41, 0.5, 0.45], [5, 6, 7, 8])
    welch = stats.ttest_ind(
        [run.values_P.mean() for run in others], [run.values_P.mean() for run in old], equal_var=False
    ).confidence_interval()
    found = change(old, others)
    assert (found.low, found.high) == pytest.approx(tuple(welch)) and found.method == "unpaired seeds"

    single = change(old[:1], new)
    assert single.method == "seeds of one" and single.runs == (3,)
    assert single.value == pytest.approx(np.mean(list(means[1].values())) - means[0][0])


def test_the_best_step_is_not_chosen_by_the_prompts_that_it_is_compared_on() -> None:
    """Of ten evaluations of the same skill the best looks better than it is; the cross-fitted one does not."""
    rng = np.random.default_rng(0)
    prompts = [f"p{i}" for i in range(40)]
    fitted, naive = [], []
    for _ in range(300):
        noise_SP = rng.standard_normal((10, 40))

        class Measured:
            def __init__(self, values_SP: np.ndarray) -> None:
                self.prompts, self.values_SP = prompts, values_SP

            def at(self, run: Any, step: int) -> dict[str, CurvePoint]:
                values_P = self.values_SP[step]
                return {"m": CurvePoint(1, values_P.mean(), 0.1, 0.0, 0.0, values_P)}

        run: Any = type("Run", (), {"files": dict.fromkeys(range(10))})
        points, steps = comparison._cross_fitted(Measured(noise_SP), run, "m")  # type: ignore[arg-type]
        fitted.append(points["m"].value)
        naive.append(noise_SP.mean(axis=1).max())
        assert len(steps) == 2
    error = np.std(fitted) / np.sqrt(len(fitted))
    assert abs(np.mean(fitted)) < 3 * error and np.mean(naive) > 10 * error


def test_the_best_step_is_found(tmp_path: Path) -> None:
    found = compare(runs(tmp_path, "pass-0", "mean-0", rates={0: 0.1, 1: 1.0, 2: 0.3}), best=True)
    best = found.moments[-1]
    assert best.at == "best" and best.steps == {"pass-0": [1, 1], "mean-0": [1, 1]}
    assert best.values["eval/pass@2", A].value == 1.0


def test_mixtures_have_a_metric_of_their_own(tmp_path: Path) -> None:
    mixture = {"weight": 0.7, "k": 2, "mixture": [{"weight": 0.3, "strategy": "mean", "k": 1}]}
    one = make_run(tmp_path, "mixed", {"objective": mixture})
    found = compare([*runs(tmp_path, "pass-0"), one])
    assert found.objectives[found.groups[1].label] == "eval/objective"
    assert found.labels["eval/objective"] == "0.7 pass@2 + 0.3 mean reward"
    logged = load_run(one).series("eval/objective")[1][-1]
    assert found.moments[0].values["eval/objective", found.groups[1].label].value == pytest.approx(logged)


def output(
    directory: Path, rate: float, seed: int, config: dict[str, Any] | None, temperatures: Sequence[float] = (1.0,)
) -> Path:
    """What `bonrl eval --output` writes."""
    directory.mkdir()
    for temperature in temperatures:
        write(directory / f"groups-temperature-{temperature:g}.parquet", evaluation_groups(rate, seed))
    model = config["model"]["path"] if config else "models/base"
    content = {"model": model, "evaluations": [{"temperature": t} for t in temperatures]}
    (directory / "evaluation.json").write_text(json.dumps(content | ({"config": config} if config else {})))
    return directory


def test_outputs_of_eval_are_compared_with_each_other_and_with_runs(tmp_path: Path) -> None:
    config = load_run(runs(tmp_path, "pass-0")[0]).config
    base = output(tmp_path / "base", 0.2, 0, None)
    trained = []
    for seed in (1, 2):
        model = {"path": f"/run-{seed}/checkpoints/step-000002/huggingface"}
        trained.append(output(tmp_path / f"trained{seed}", 0.7, seed, config | {"run": {"seed": seed}, "model": model}))
    found = compare([base, *trained])
    assert [[run.name for run in group.runs] for group in found.groups] == [["base"], ["trained1", "trained2"]]
    assert [moment.at for moment in found.moments] == ["last"] and found.moments[0].steps == {}
    assert found.moments[0].changes["eval/pass@1", "trained1, trained2"].method == "seeds of one"
    assert [group.label for group in compare([base, tmp_path / "pass-0"]).groups] == ["base", "pass-0"]
    two = output(tmp_path / "two", 0.2, 0, config | {"model": {"path": "models/base"}}, temperatures=(0.7, 1.0))
    with pytest.raises(UsageError, match=r"holds evaluations at temperature 0.7, 1; choose one of them with --temp"):
        compare([two, *trained])
    found = compare([two, *trained], temperature=0.7)
    assert [group.label for group in found.groups] == ["two", "trained1, trained2"], (
        "a base model is named, not its keys"
    )
    assert found.objectives == {"trained1, trained2": "eval/pass@2"}


def test_what_cannot_be_compared_is_refused_and_the_rest_is_named(tmp_path: Path) -> None:
    [one] = runs(tmp_path, "pass-0")
    with pytest.raises(UsageError, match="give at least two runs"):
        compare([one])
    with pytest.raises(UsageError, match="is given twice"):
        compare([one, one])
    other = make_run(tmp_path, "gsm", {"task": {"name": "gsm8k", "path": "x"}})
    with pytest.raises(UsageError, match=r"task.name differs: countdown \(pass-0\), gsm8k \(gsm\)"):
        compare([one, other])
    none = make_run(tmp_path, "none")
    for file in (none / "groups").glob("evaluation-*"):
        file.unlink()
    with pytest.raises(UsageError, match="holds no evaluation to compare; set evaluation.every"):
        compare([one, none])
    apart = make_run(tmp_path, "apart", {"evaluation": {"split": "test", "n": 4}})
    write(apart / "groups" / "evaluation-000002.parquet", evaluation_groups(0.5, 0, prompts=1))
    with pytest.raises(UsageError, match="1 prompts in common.*\n.*evaluation.split differs"):
        compare([one, apart])


def test_other_sampling_and_missing_prompts_are_warned_about(tmp_path: Path) -> None:
    [one] = runs(tmp_path, "pass-0")
    other = make_run(tmp_path, "b", {"task": {"format_bonus": 0.0, "instruction": ""}, **MEAN}, prompts=10)
    for file in (other / "groups").glob("evaluation-*"):
        found = [type(group)(**{**vars(group), "temperature": 0.5}) for group in evaluation_groups(0.5, 0, prompts=10)]
        write(file, found)
    warnings = compare([one, other]).warnings
    assert any(line.startswith("evaluation.temperature differs: 1 (pass-0), 0.5 (b)") for line in warnings)
    assert any(line.startswith("task.instruction differs") for line in warnings)
    assert any(line.startswith("10 of 12 prompts were judged in every evaluation") for line in warnings)


def test_other_problems_under_the_same_id_are_refused(tmp_path: Path) -> None:
    [one] = runs(tmp_path, "pass-0")
    other = make_run(tmp_path, "b", MEAN)
    found = [type(group)(**{**vars(group), "prompt_text": "another"}) for group in evaluation_groups(0.5, 0)]
    write(other / "groups" / "evaluation-000002.parquet", found)
    with pytest.raises(UsageError, match="is not the same problem in pass-0 and b"):
        compare([one, other])


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_the_figure_shows_what_was_found(tmp_path: Path, suffix: str) -> None:
    found = compare(runs(tmp_path, "pass-0", "mean-0"))
    a, b = curves(found, "eval/pass@2")
    assert a.steps == b.steps == [0, 2] and a.values[1] == found.moments[0].values["eval/pass@2", A].value
    assert {bar.label for bar in bars(found)} == {"pass@1", "pass@2", "pass@4", "mean reward"}
    write_figure(found, tmp_path / f"figure{suffix}")
    content = (tmp_path / f"figure{suffix}").read_bytes()
    assert content.startswith({".svg": b"<?xml", ".html": b"<!doctype html>"}[suffix])
    if suffix == ".html":
        assert b"optimizer steps" in content and b'src="http' not in content
    with pytest.raises(UsageError, match=r"must end with one of .png, .svg, .pdf, .html"):
        check_figure(tmp_path / "figure.jpeg")
