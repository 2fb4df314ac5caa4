"""The experiment on refreshed verifiers: order of the work, statistics and page, with a command that writes what
`bonrl` would.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from benchmarks.refresh.__main__ import main
from benchmarks.refresh.measures import Measures, shares
from benchmarks.refresh.page import hours_left, write_page
from benchmarks.refresh.plan import Plan, load
from benchmarks.refresh.results import Courses, Evaluations, Key, RunKey, scored
from benchmarks.refresh.stages import Stages
from benchmarks.refresh.verifiers import Answers
from cluster.records.checkpoints import Checkpoints
from learner import paired_difference_of_runs

PROMPTS, N, STEPS = 24, 8, 6
PLAN = {
    "title": "A small plan",
    "config": "cluster/presets/local.yaml",
    "model": "models/countdown-base",
    "common": [
        *("rollout.prompts_per_step=2", "rollout.n=4", "objective.strategy=best_of_k", "objective.k=2"),
        "task.scorer.kind=learned",
    ],
    "samples": {"prompts": 30, "n": 4},
    "epochs": 2,
    "seeds": [0, 1],
    "steps": STEPS,
    "refreshes": [2, 4],
    "ks": [1, 4],
    "split": "validation",
    "test": {"prompts": PROMPTS, "n": N},
    "primary": [
        {"value": "best_of_k", "k": 4, "contender": "refreshed", "against": "fixed_then_refreshed"},
        {"value": "accepted_wrong", "contender": "refreshed", "against": "fixed_then_refreshed"},
    ],
    "costs": {"start": 10, "step": 1, "thousand_samples": 1, "thousand_answers": 100, "jobs": 1},
}


@pytest.fixture
def plan(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(repository)
    return Plan.model_validate(PLAN)


def probability(verifier: Path, response: str) -> float:
    """Verifiers of more refreshes separate right and wrong answers better; each errs in its own way."""
    skill = json.loads((verifier / "verifier.json").read_text())["skill"]
    noise = zlib.crc32(f"{response} {skill}".encode()) / 2**32 - 0.5
    return 1 / (1 + np.exp(-skill * (1 if response.startswith("correct") else -1) - 8 * noise))


def score(verifier: Path, answers: Answers) -> np.ndarray:
    return np.array([[probability(verifier, response) for response in row] for row in answers.responses])


class FakeBonrl:
    """Writes runs, evaluations and verifiers. stop: ends the training of a run at a step, with a checkpoint."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.stop: dict[str, int] = {}
        self.wrong_scores = False

    def __call__(self, verb: str, *arguments: str) -> None:
        self.calls.append((verb, *arguments))
        keys = dict(part.split("=", 1) for part in arguments if "=" in part)
        given = list(zip(arguments, arguments[1:], strict=False))
        {"train": self._train, "eval": self._evaluate, "train-verifier": self._verifier}[verb](keys, given)

    def verbs(self) -> Counter[str]:
        return Counter(call[0] for call in self.calls)

    def _train(self, keys: dict[str, str], given: list[tuple[str, str]]) -> None:
        resumed = dict(given).get("--resume")
        run = Path(resumed) if resumed else Path(keys["run.directory"]) / keys["run.name"]
        checkpoints, last = Checkpoints(run / "checkpoints"), int(keys["run.steps"])
        newest = checkpoints.latest().checkpoint
        assert (newest is not None) == (resumed is not None)
        name = run.parent.name
        stopped = self.stop.pop(name, None) if self.stop.get(name, 0) < last else None
        for step in range(newest.step + 1 if newest else 1, (stopped or last) + 1):
            path = run / "groups" / f"step-{step:06d}.parquet"
            write_answers(path, 0.3, 2, 4, Path(keys["task.scorer.path"]), seed=step)
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"train/step": step, "time/step_s": 0.5}) + "\n")
        model = checkpoints.begin(stopped or last) / "huggingface"
        model.mkdir()
        (model / "chance").write_text("0.4" if name.startswith("fixed") else "0.5")
        checkpoints.finalise(stopped or last)
        checkpoints.prune(1)
        if stopped:
            raise RuntimeError("interrupted")

    def _evaluate(self, keys: dict[str, str], given: list[tuple[str, str]]) -> None:
        options = dict(given)
        chance = Path(options["--checkpoint"]) / "chance"
        verifier = Path(keys["task.scorer.path"]) if "task.scorer.path" in keys else None
        write_answers(
            Path(options["--output"]) / "groups-temperature-1.parquet",
            float(chance.read_text()) if chance.is_file() else 0.2,
            int(keys["evaluation.prompts"]),
            int(keys["evaluation.n"]),
            verifier,
            seed=int(keys.get("run.seed", 5)),
            offset=0.1 if self.wrong_scores and verifier else 0.0,
        )

    def _verifier(self, keys: dict[str, str], given: list[tuple[str, str]]) -> None:
        options, sources = dict(given), [Path(value) for flag, value in given if flag == "--samples"]
        assert all(source.exists() for source in sources) and keys["task.scorer.kind"] == "verdict"
        output = Path(options["--output"])
        output.mkdir()
        earlier = options.get("--refresh")
        skill = 1 + json.loads((Path(earlier) / "verifier.json").read_text())["skill"] if earlier else 1
        (output / "verifier.json").write_text(json.dumps({"skill": skill, "answers": {"train": 10 * len(sources)}}))


def write_answers(
    path: Path, chance: float, prompts: int, n: int, verifier: Path | None, *, seed: int, offset: float = 0.0
) -> None:
    """Graded groups, the last prompt first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    right = np.random.default_rng(seed).random((prompts, n)) < chance
    verdicts = [["correct" if one else "wrong" for one in row] for row in right]
    texts = [[f"{v} {seed} {p} {i}" for i, v in enumerate(row)] for p, row in enumerate(verdicts)]
    scores = [[offset + probability(verifier, text) if verifier else 1.0 for text in row] for row in texts]
    order = np.arange(prompts)[::-1]
    columns = {
        "sequence": order,
        "prompt_id": [f"train/{i}" for i in order],
        "prompt_text": [f"prompt {i}" for i in order],
        "response_text": [texts[i] for i in order],
        "response_tokens": [[[1]] * n] * prompts,
        "verdict": [verdicts[i] for i in order],
        "score": [scores[i] for i in order],
    }
    parquet.write_table(pa.table(columns), path)


def measures(plan: Plan, folder: Path) -> Measures:
    courses = Courses(folder / "courses.parquet", plan.digest)
    return Measures(plan, Evaluations(folder / "evaluations.parquet", plan.digest), courses)


def stages(plan: Plan, folder: Path, fake: FakeBonrl) -> Stages:
    return Stages(measures(plan, folder), folder / "scratch", fake, score)


def test_each_verifier_is_trained_on_the_groups_since_the_last_one(plan: Plan, tmp_path: Path) -> None:
    fake = FakeBonrl()
    stages(plan, tmp_path, fake).run()
    samples = ["samples"]
    trained = []
    for call in fake.calls:
        if call[0] == "train-verifier":
            given = list(zip(call, call[1:], strict=False))
            sources = [Path(v).name.removesuffix(".parquet") for flag, v in given if flag == "--samples"]
            places = (Path(dict(given).get(flag, "none")) for flag in ("--refresh", "--output"))
            trained.append((*(f"{place.parent.name}/{place.name}" for place in places), sources))
            assert ("--epochs", "2") in given and ("--split", "train") in given
    steps = [f"step-{step:06d}" for step in range(1, STEPS + 1)]
    first = "base/verifier-000000"
    expected = [("/none", f"{first}.new", samples)]
    for seed in plan.seeds:
        of = {name: f"{name}-seed{seed}/verifier-" for name in ("fixed", "refreshed")}
        expected += [
            (first, f"{of['fixed']}000006.new", samples + steps),
            (first, f"{of['refreshed']}000002.new", samples + steps[:2]),
            (f"{of['refreshed']}000002", f"{of['refreshed']}000004.new", samples + steps[2:4]),
            (first, f"{of['refreshed']}000006.new", samples + steps),
        ]
    assert trained == expected
    scorers = [
        (Path(part.split("=", 1)[1]).name, "--resume" in call, next(p for p in call if p.startswith("run.steps=")))
        for call in fake.calls
        if call[0] == "train"
        for part in call
        if part.startswith("task.scorer.path=") and "seed1" in " ".join(call)
    ]
    assert scorers == [
        ("verifier-000000", False, "run.steps=6"),
        ("verifier-000000", False, "run.steps=2"),
        ("verifier-000002", True, "run.steps=4"),
        ("verifier-000004", True, "run.steps=6"),
    ]


def test_a_plan_continues_where_it_stopped(plan: Plan, tmp_path: Path) -> None:
    fake = FakeBonrl()
    fake.stop = {"refreshed-seed0": 3, "fixed-seed1": 5}
    with pytest.raises(ExceptionGroup, match="the same command does the missing ones"):
        stages(plan, tmp_path, fake).run()
    found = measures(plan, tmp_path)
    assert found.seeds == [] and "2 of 4 runs are missing" in hours_left(found)
    before = fake.verbs()
    stages(plan, tmp_path, fake).run()
    assert fake.verbs() - before == Counter({"train": 3, "train-verifier": 3, "eval": 2}), "only what was missing"
    continued = [call for call in fake.calls[before.total() :] if call[0] == "train"]
    assert all("--resume" in call for call in continued)
    assert any(part.endswith("refreshed-seed0/verifier-000002") for part in continued[0]), "that of the steps 3 and 4"
    course = measures(plan, tmp_path).courses.get(RunKey("refreshed", 0))
    assert course is not None and course.verifier_step.tolist() == [2, 4, 6] and len(course.answers) == STEPS
    assert course.verifier_answers.tolist() == [30, 30, 70] and course.seconds.tolist() == [0.5] * STEPS
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == ["base"], "measured runs are removed"
    done = len(fake.calls)
    stages(plan, tmp_path, fake).run()
    assert len(fake.calls) == done, "everything is measured"


def test_the_page_shows_the_named_contrasts(plan: Plan, tmp_path: Path) -> None:
    fake = FakeBonrl()
    work, source = stages(plan, tmp_path, fake), Path("refresh/plan.yaml")
    write_page(tmp_path, work.found, source)
    assert "Primary" not in (tmp_path / "README.md").read_text()
    work.run()
    found = measures(plan, tmp_path)
    write_page(tmp_path, found, source)
    page = (tmp_path / "README.md").read_text()
    for heading in ("Primary contrasts", "Validation split", "Where the differences", "During training", "Cost"):
        assert f"## {heading}" in page
    assert (tmp_path / "refresh.png").stat().st_size > 1000
    sides = (found.best_of(name, 4) for name in ("fixed_then_refreshed", "refreshed"))
    value = paired_difference_of_runs(*sides).value
    assert f"| `refreshed` minus `fixed, then refreshed`: Best-of-4 | {value:+.3f} [" in page
    accepted = [
        sum(one.accepted_wrong.sum() / one.wrong.sum() for one in results) / 2
        for verifier in ("own", "last")
        for results in [[found.evaluations.get(Key("refreshed", seed, verifier)) for seed in (0, 1)]]
    ]
    assert found.accepted_wrong("refreshed").mean() == pytest.approx(accepted[0])
    assert f"{100 * (accepted[0] - accepted[1]):+.1f}" in page
    first_row = next(line for line in page.splitlines() if line.startswith("| 1 to 2 |"))
    assert first_row.endswith("| equal | equal |"), "both runs have the same verifier before the first refresh"
    assert "the same for all runs" in page and "| first verifier, shared | 120 |" in page


def test_every_verifier_scores_the_same_answers_in_the_order_of_the_prompts(plan: Plan, tmp_path: Path) -> None:
    stages(plan, tmp_path, FakeBonrl()).run()
    found = measures(plan, tmp_path).evaluations
    right = {key.verifier: one.right.tolist() for key, one in found.items() if key[:2] == ("refreshed", 1)}
    assert set(right) == {"first", "last", "own"} and len({tuple(counts) for counts in right.values()}) == 1
    drawn = np.random.default_rng(1001).random((PROMPTS, N)) < 0.5
    assert right["own"] == drawn.sum(axis=1).tolist()
    one = found.get(Key("refreshed", 1, "own"))
    assert one is not None and 0 < one.accepted_right.sum() <= one.right.sum() and 0 < one.accepted_wrong.sum()
    assert one.best_of_k[1].tolist() == pytest.approx((one.right / N).tolist())


def test_recorded_scores_of_another_verifier_are_refused(plan: Plan, tmp_path: Path) -> None:
    fake = FakeBonrl()
    fake.wrong_scores = True
    with pytest.raises(ExceptionGroup) as caught:
        stages(plan, tmp_path, fake).run()
    assert all("the recorded scores are not those of" in str(one) for one in caught.value.exceptions)


def test_a_lost_first_verifier_is_named_on_the_page(plan: Plan, tmp_path: Path) -> None:
    fake = FakeBonrl()
    fake.stop = {"fixed-seed1": 3, "refreshed-seed1": 3}
    with pytest.raises(ExceptionGroup):
        stages(plan, tmp_path, fake).run()
    work = Stages(measures(plan, tmp_path), tmp_path / "elsewhere", fake, score)
    (tmp_path / "elsewhere" / "base" / "verifier-000000").mkdir(parents=True)
    again = {"skill": 1.5, "answers": {"train": 10}}
    (tmp_path / "elsewhere" / "base" / "verifier-000000" / "verifier.json").write_text(json.dumps(again))
    (tmp_path / "elsewhere" / "base" / "verifier-000000" / "cost.json").write_text('{"answers": 10, "seconds": 1.0}')
    work.run()
    write_page(tmp_path, work.found, Path("plan.yaml"))
    assert "have 2 different ones" in (tmp_path / "README.md").read_text()


def test_best_of_k_and_acceptance_by_enumeration() -> None:
    random = np.random.default_rng(0)
    right = random.random((5, 6)) < 0.4
    p = random.choice([0.1, 0.3, 0.5, 0.7, 0.9], (5, 6))
    found = scored(right, p, (1, 3))
    for row, scores, best, accepted in zip(right, p, found.best_of_k[3], found.accepted_wrong, strict=True):
        subsets = []
        for chosen in combinations(range(6), 3):
            top = [i for i in chosen if scores[i] == max(scores[j] for j in chosen)]
            subsets.append(np.mean([row[i] for i in top]))  # ties are broken at random
        assert best == pytest.approx(np.mean(subsets))
        assert accepted == sum(not r and s >= 0.5 for r, s in zip(row, scores, strict=True))
    assert (found.wrong + found.right == 6).all() and (found.accepted_right <= found.right).all()


def test_a_share_is_the_ratio_of_the_sums_and_leaves_out_no_prompt() -> None:
    part, whole = np.array([[1, 0, 3], [2, 0, 0]]), np.array([[2, 0, 8], [4, 4, 0]])
    found = shares(part, whole)
    assert found.mean(axis=1).tolist() == pytest.approx([0.4, 0.25])
    assert found[0, 1] == pytest.approx(0.4), "a prompt without weight is at the mean"
    assert shares(whole, whole) == pytest.approx(np.ones((2, 3)))
    assert shares(10 * part, 10 * whole) == pytest.approx(found)


def test_intervals_of_shares_cover_the_truth() -> None:
    """Prompts differ in their wrong answers and in how many of them are accepted, and every run does."""
    random = np.random.default_rng(3)
    covered, truth = [], 0.02
    for _ in range(400):
        wrong_P, rate_P, gain_P = random.integers(0, 65, 100), random.beta(2.0, 18.0, 100), random.uniform(0, 0.04, 100)
        sides = []
        for shift_P in (np.zeros(100), gain_P):
            rates_SP = (rate_P + shift_P) * random.uniform(0.7, 1.3, (6, 1))
            sides.append(shares(random.binomial(wrong_P, np.clip(rates_SP, 0, 1)), np.tile(wrong_P, (6, 1))))
        found = paired_difference_of_runs(*sides)
        covered.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.975


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"primary": [{"value": "best_of_k", "k": 4, "contender": "best", "against": "fixed"}]}, "names 'best'"),
        ({"primary": [{"value": "best_of_k", "k": 2, "contender": "base", "against": "fixed"}]}, "with k = 2"),
        ({"primary": [{"value": "accepted_wrong", "k": 4, "contender": "base", "against": "fixed"}]}, "with k = 4"),
        ({"ks": [4, 16]}, r"test\.n = 8 is less than the largest k, 16"),
        ({"refreshes": [2, 6]}, "rising steps below steps = 6"),
        ({"refreshes": [4, 2]}, "rising steps"),
        ({"refreshes": []}, "rising steps"),
        ({"seeds": [0, 0]}, "two or more"),
        ({"rates": [1e-5]}, "rates"),
    ],
)
def test_bad_plans_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.model_validate(PLAN | change)


def test_the_committed_plan_is_a_valid_configuration(repository: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    plan = load(repository / "benchmarks" / "refresh" / "countdown.yaml")
    Stages(measures(plan, tmp_path), tmp_path, extra=("sampler.kv_cache_gib=1",)).check()
    with pytest.raises(ValueError, match=r"--set rollout\.n=32: the plan sets this"):
        Stages(measures(plan, tmp_path), tmp_path, extra=("rollout.n=32",)).check()
    assert plan.split == "test" and len(plan.primary) == 2 and len(plan.seeds) == 6
    page = (repository / "docs" / "evidence" / "plan.md").read_text()
    assert f"| `refresh/countdown.yaml` | {plan.digest} |" in page, "the page describes this version of the plan"


def test_a_plan_that_is_not_committed_starts_nothing(repository: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    path = tmp_path / "plan.yaml"
    path.write_text((repository / "benchmarks/refresh/countdown.yaml").read_text())
    monkeypatch.setattr(Stages, "run", lambda self: pytest.fail("it ran"))
    monkeypatch.setattr(sys, "argv", ["refresh", "run", "--plan", str(path), "--evidence", str(tmp_path)])
    with pytest.raises(RuntimeError, match=r"plan\.yaml is not committed"):
        main()


def test_the_hours_are_those_of_the_missing_parts(plan: Plan, tmp_path: Path) -> None:
    evaluation = 10 + PROMPTS * N / 1000
    fixed = 10 + 6 + (120 + 48) / 10 + evaluation
    refreshed = 3 * 10 + 6 + (120 + 16 + 120 + 16 + 120 + 48) / 10 + evaluation
    assert plan.run_seconds("fixed") == pytest.approx(fixed)
    assert plan.run_seconds("refreshed") == pytest.approx(refreshed)
    slow = plan.model_copy(update={"costs": plan.costs.model_copy(update={"start": 36_000.0})})
    assert slow.digest == plan.digest, "costs decide no result"
    assert "At most 150.0 hours in all" in hours_left(measures(slow, tmp_path)), "15 starts of a process"
    stages(plan, tmp_path, FakeBonrl()).run()
    assert "0 of 4 runs are missing" in hours_left(measures(plan, tmp_path))
    assert "At most 0.0 hours" in hours_left(measures(plan, tmp_path))
