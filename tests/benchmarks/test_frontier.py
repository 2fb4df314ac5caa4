"""The comparison along training: choices, stages and page, with a command that writes what `bonrl` would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from benchmarks.frontier.__main__ import main
from benchmarks.frontier.choice import best_step, chosen
from benchmarks.frontier.counts import Counts, Key, Store
from benchmarks.frontier.gsm8k_split import split
from benchmarks.frontier.page import hours_left, write_page
from benchmarks.frontier.plan import Plan, load
from benchmarks.frontier.power import power_table
from benchmarks.frontier.stages import Stages
from benchmarks.frontier.tables import values
from benchmarks.planned.contrasts import holm
from benchmarks.planned.plan import require_committed
from learner.metrics import paired_p_value

PLANS = sorted((Path(__file__).parents[2] / "benchmarks" / "frontier").glob("*.yaml"))


class FakeBonrl:
    """Writes run directories and evaluations; the mean is best at step 2, pass@4 at step 6, both at the larger rate."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.step_seconds = 0.5

    def __call__(self, verb: str, *arguments: str) -> None:
        self.calls.append([verb, *arguments])
        keys = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        if verb == "train":
            self._train(keys)
        else:
            self._evaluate(keys, dict(zip(arguments, arguments[1:], strict=False)), arguments)

    def _train(self, keys: dict[str, str]) -> None:
        directory = Path(keys["run.directory"]) / keys["run.name"]
        rate, mean = float(keys["learner.learning_rate"]), keys["objective.strategy"] == "mean"
        steps, rows = (2, 4, 6), []
        chances = {step: (0.3 if mean else 0.4) + 3e3 * rate - 0.02 * abs(step - (2 if mean else 6)) for step in steps}
        for step in steps:
            groups = directory / "groups" / f"evaluation-{step:06d}.parquet"
            write_groups(groups, chances[step], 24, 1.0, seed=int(keys["run.seed"]) + step)
            model = directory / "checkpoints" / f"step-{step:06d}" / "huggingface"
            model.mkdir(parents=True)
            (model / "chance").write_text(str(chances[step]))
        rows = [{"response/length_mean": 5.0, "time/step_s": self.step_seconds}] * 6
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        best = best_step({s: counts_of(directory / "groups" / f"evaluation-{s:06d}.parquet") for s in steps}, 4)
        (directory / "best.json").write_text(json.dumps({"step": best}))

    def _evaluate(self, keys: dict[str, str], options: dict[str, str], arguments: tuple[str, ...]) -> None:
        model = Path(options["--checkpoint"])
        chance = 0.2 if model.name == "base-model" else float((model / "chance").read_text())
        for i, flag in enumerate(arguments):
            if flag == "-t":
                t = float(arguments[i + 1])
                path = Path(options["--output"]) / f"groups-temperature-{t:g}.parquet"
                write_groups(path, chance + 0.2 * (t == 0.6), int(keys["evaluation.prompts"]), t, int(keys["run.seed"]))


def write_groups(path: Path, chance: float, prompts: int, temperature: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    right = np.random.default_rng(seed).random((prompts, 8)) < chance
    columns = {
        "sequence": np.arange(prompts)[::-1],
        "temperature": np.full(prompts, temperature, np.float32),
        "verdict": [["correct" if one else "wrong" for one in row] for row in right],
    }
    parquet.write_table(pa.table(columns), path)


def counts_of(path: Path) -> Counts:
    verdicts = parquet.read_table(path)["verdict"].to_pylist()
    return Counts(8, np.array([row.count("correct") for row in verdicts]))


def test_a_plan_runs_in_stages_and_continues(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake, counts, scratch = FakeBonrl(), tmp_path / "page" / "counts.parquet", tmp_path / "scratch"
    stages = Stages(plan, Store(counts, plan.digest), scratch, fake)
    stages.train(plan.runs[:3])
    assert [call[0] for call in fake.calls].count("train") == 3
    again = Stages(plan, Store(counts, plan.digest), scratch, fake)
    assert "9 of 12 training runs are missing" in hours_left(again.store, plan)
    write_page(tmp_path / "page", again.store, plan, Path("frontier/plan.yaml"))
    assert "Test split" not in (tmp_path / "page" / "README.md").read_text()
    again.train()
    assert [call[0] for call in fake.calls].count("train") == 12, "no run is repeated"
    assert not list((scratch / "runs").iterdir()), "run directories are removed"
    again.tune()
    again.test()
    assert not any("evaluation.split=test" in call for call in fake.calls if call[0] == "train")
    done = len(fake.calls)
    for stage in (again.train, again.tune, again.test):
        stage()
    assert len(fake.calls) == done, "everything is measured"
    assert {key.temperature for key, _ in again.store.items() if key.split == "test"} == {0.6}
    choice = chosen(again.store, plan, "pass4", 4)
    assert (choice.rate, choice.temperature) == (3e-5, 0.6) and len(choice.steps) == 3
    write_page(tmp_path / "page", Store(counts, plan.digest), plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "page" / "README.md").read_text()
    for heading in (
        "Along training",
        "At equal numbers",
        "Within equal tokens or seconds",
        "Test split",
        "Primary contrasts",
        "By difficulty",
        "Answers needed",
    ):
        assert f"## {heading}" in page
    assert "| the mean | pass@4 |" in page and "0.0 thousand answers (step 2)" in page, (
        "the points that a model reaches"
    )
    assert "pass@4 minus the mean, pass@4" in page and (tmp_path / "page" / "frontier.png").stat().st_size > 1000
    (curve,) = [c for key, c in again.store.items() if key[:5] == ("mean", 3e-5, 1, 4, "curve")]
    assert (curve.tokens, curve.seconds) == (2 * 4 * 5.0 * 4, 2.0)
    assert "2 contenders trained, 2 tested" in capsys.readouterr().out


def test_a_contrast_with_the_base_model(plan: Plan, tmp_path: Path) -> None:
    pairs = [{"contender": "pass4", "against": against, "k": 4} for against in ("mean", "base")]
    plan = Plan.model_validate(plan.model_dump() | {"ks": [4], "primary": pairs})
    store = Store(tmp_path / "counts.parquet", plan.digest)
    stages = Stages(plan, store, tmp_path / "scratch", FakeBonrl())
    for stage in (stages.train, stages.tune, stages.test):
        stage()
    write_page(tmp_path, store, plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "README.md").read_text()
    before, after = values(store, plan, "base", 4), values(store, plan, "pass4", 4)
    assert f"| pass@4 minus the base model, pass@4 | {after.mean() - before.mean():+.3f} [" in page
    classes = page.split("## By difficulty")[1].split("## Answers needed")[0]
    assert "pass@4 minus the mean" in classes and "minus the base model" not in classes, "its answers make the classes"
    assert "pass4 minus base, pass@4: standard deviation" in power_table(store, plan)
    assert "| contender | tuned for | pass@1 | pass@4 |" in page, "what a single answer costs"


def test_a_page_can_be_written_while_one_side_is_tested(plan: Plan, tmp_path: Path) -> None:
    stages = Stages(plan, Store(tmp_path / "counts.parquet", plan.digest), tmp_path / "scratch", FakeBonrl())
    for stage in (stages.train, stages.tune, stages.test):
        stage()
    part = Store(tmp_path / "part.parquet", plan.digest)
    part.add({key: c for key, c in stages.store.items() if (key.split, key.contender) != ("test", "pass4")})
    write_page(tmp_path, part, plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "README.md").read_text()
    assert page.count("not measured yet") == len(plan.primary) and "## Test split" in page
    assert "## By difficulty" not in page


def test_other_temperatures_are_shown_and_decide_nothing(plan: Plan, tmp_path: Path) -> None:
    fake, store = FakeBonrl(), Store(tmp_path / "counts.parquet", plan.digest)
    stages = Stages(plan, store, tmp_path / "scratch", fake)
    stages.train()
    stages.tune()
    write_page(tmp_path, store, plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "README.md").read_text()
    assert "| contender | tuned for | 0.6 | 1 |" in page and "minus the base model | pass@1" not in page
    before = [chosen(store, plan, name, k) for name in plan.contenders for k in plan.ks]
    done = len(fake.calls)
    stages.other_temperatures((0.3,))
    assert all("evaluation.split=validation" in call and "0.3" in call for call in fake.calls[done:])
    assert [chosen(store, plan, name, k) for name in plan.contenders for k in plan.ks] == before
    write_page(tmp_path, store, plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "README.md").read_text()
    assert "| contender | tuned for | 0.3 |" in page and "The plan does not have 0.3: measured later" in page


def test_the_base_model_is_tested_at_other_temperatures_after_the_plan_only(plan: Plan, tmp_path: Path) -> None:
    fake, store = FakeBonrl(), Store(tmp_path / "counts.parquet", plan.digest)
    stages = Stages(plan, store, tmp_path / "scratch", fake)
    stages.train()
    stages.tune()
    with pytest.raises(RuntimeError, match="the plan's models come first"):
        stages.base_on_test((0.3,))
    stages.test()
    write_page(tmp_path, store, plan, Path("frontier/plan.yaml"))
    before = (tmp_path / "README.md").read_text()
    assert "Other temperatures of the base model" not in before
    stages.base_on_test((0.3,))
    write_page(tmp_path, store, plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "README.md").read_text()
    old = before.splitlines()
    kept, new = ([line for line in page.splitlines() if line and (line in old) == known] for known in (True, False))
    assert kept[: len([*filter(None, old)])] == [*filter(None, old)]
    needed, *table = new
    assert needed.startswith("| the base model at temperature 0.3 |"), "the answers that it needs"
    assert table[0] == "## Other temperatures of the base model", "nothing else on the page changes"
    assert "The base model at 0.3 was measured after the results above were known" in page


def test_one_temperature_is_not_tuned(plan: Plan, tmp_path: Path) -> None:
    plan = plan.model_copy(update={"temperatures": (1.0,), "rates": (1e-5,)})
    fake, store = FakeBonrl(), Store(tmp_path / "counts.parquet", plan.digest)
    stages = Stages(plan, store, tmp_path / "scratch", fake)
    stages.train()
    trained = len(fake.calls)
    stages.tune()
    assert len(fake.calls) == trained
    stages.test()
    assert all("evaluation.split=test" in call for call in fake.calls[trained:])
    write_page(tmp_path, store, plan, Path("frontier/plan.yaml"))
    page = (tmp_path / "README.md").read_text()
    assert "## Test split" in page and "one learning rate and one temperature" in page and "By temperature" not in page


def test_a_lost_model_is_trained_again(plan: Plan, tmp_path: Path) -> None:
    fake, store = FakeBonrl(), Store(tmp_path / "counts.parquet", plan.digest)
    Stages(plan, store, tmp_path / "one", fake).train()
    curves = {key: counts.seconds for key, counts in store.items() if key.split == "curve"}
    fake.step_seconds = 9.0  # another machine
    Stages(plan, store, tmp_path / "two", fake).tune()
    assert {k: c.seconds for k, c in store.items() if k.split == "curve"} == curves, "seconds of the first training"
    chosen_runs = {(n, chosen(store, plan, n, k).rate, s) for n in plan.contenders for k in plan.ks for s in plan.seeds}
    assert sum(call[0] == "train" for call in fake.calls) == 12 + len(chosen_runs), "each run once"


def test_failed_runs_are_reported_after_the_others(plan: Plan, tmp_path: Path) -> None:
    fake = FakeBonrl()

    def command(verb: str, *arguments: str) -> None:
        if "run.seed=1" in arguments:
            raise RuntimeError("out of memory")
        fake(verb, *arguments)

    stages = Stages(plan, Store(tmp_path / "counts.parquet", plan.digest), tmp_path, command)
    with pytest.raises(ExceptionGroup, match="the same command does the missing ones"):
        stages.train()
    assert "4 of 12 training runs are missing" in hours_left(stages.store, plan)


def test_the_earliest_of_equal_steps_is_best() -> None:
    same = Counts(4, np.array([1, 2]))
    assert best_step({4: same, 2: same, 6: Counts(4, np.array([1, 1]))}, 2) == 2


def test_measurements_of_another_plan_are_refused(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path / "counts.parquet", plan.digest)
    store.add({Key("mean", 1e-5, 0, 2, "curve", 1.0): Counts(8, np.array([1, 2]), 10.0, 1.5)})
    again = dict(Store(tmp_path / "counts.parquet", plan.digest).items())
    assert [(c.samples, c.right_P.tolist(), c.tokens, c.seconds) for c in again.values()] == [(8, [1, 2], 10.0, 1.5)]
    with pytest.raises(RuntimeError, match="measured with another plan"):
        Store(tmp_path / "counts.parquet", plan.model_copy(update={"steps": 8}).digest)
    cheaper = plan.model_copy(update={"costs": plan.costs.model_copy(update={"step": 9.0})})
    assert cheaper.digest == plan.digest, "costs decide no result"
    assert plan.model_copy(update={"note": "known before"}).digest == plan.digest, "nor does a note"


def test_holm_adjusts_by_rank() -> None:
    assert holm([0.01, 0.04, 0.03], tests=3) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01], tests=5) == pytest.approx([0.05]), "contrasts without a result count"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"primary": [{"contender": "best", "against": "mean", "k": 1}]}, "contender 'best'"),
        ({"primary": [{"contender": "base", "against": "mean", "k": 1}]}, "contender 'base'"),
        ({"primary": [{"contender": "pass4", "against": "mean", "k": 2}]}, "k = 2"),
        ({"contenders": {"base": {"title": "b", "overrides": []}}, "primary": []}, "name of the base model"),
        ({"ks": [1, 4, 16]}, "validation.n = 8 is less than the largest k, 16"),
        ({"steps": 7}, "not a multiple of every"),
        ({"seeds": [0]}, "two or more"),
        ({"epochs": 1}, "epochs"),
    ],
)
def test_bad_plans_are_refused(plan: Plan, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.model_validate(plan.model_dump() | change)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_committed_plans_are_valid_configurations(
    path: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    plan = load(path)
    Stages(plan, Store(tmp_path / "counts.parquet", plan.digest), tmp_path, extra=("sampler.kv_cache_gib=1",)).check()
    assert 1 <= len(plan.primary) <= 5 and len(plan.seeds) >= 3
    assert 1.0 in plan.temperatures or not plan.tunes_temperature, "the training temperature is among the choices"
    page = (repository / "docs" / "evidence" / "plan.md").read_text()
    assert f"| `{path.name}` | {plan.digest} |" in page, "the page describes this version of the plan"


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("rollout.n=8", [], r"rollout\.n=8 .*needs k < n"),
        ("rollout.n=16", ["--set", "rollout.n=32"], r"--set rollout\.n=32: the plan sets this"),
        ("rollout.n=16", ["--only", "mean:1e-5:0"], r"--only mean:1e-5:0: .*rates: 1\.5e-05"),
        ("rollout.n=16", ["--only", "mean"], r"--only mean: give CONTENDER:RATE:SEED"),
    ],
)
def test_nothing_starts_if_a_later_run_is_impossible(
    change: str, arguments: list[str], message: str, repository: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(repository)
    plan = tmp_path / "plan.yaml"
    plan.write_text((repository / "benchmarks/frontier/countdown.yaml").read_text().replace("rollout.n=16", change))
    monkeypatch.setattr(sys, "argv", ["frontier", "run", "--plan", str(plan), "--evidence", str(tmp_path), *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert re.search(message, capsys.readouterr().err)


def test_only_a_committed_plan_may_use_the_test_split(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, timeout=60, capture_output=True)

    path = tmp_path / "plan.yaml"
    path.write_text("steps: 1\n")
    with pytest.raises(RuntimeError, match="is not committed"):
        require_committed(path)  # no repository
    git("init")
    for ignored in ("", "plan.yaml\n"):
        (tmp_path / ".gitignore").write_text(ignored)
        with pytest.raises(RuntimeError, match="is not committed"):
            require_committed(path)
    git("add", "--force", "plan.yaml")
    git("commit", "-m", "plan")
    require_committed(path)
    path.write_text("steps: 2\n")
    with pytest.raises(RuntimeError, match="is not committed"):
        require_committed(path)


def test_the_p_value_is_that_of_a_t_test() -> None:
    from scipy.stats import ttest_rel

    before, after = np.random.default_rng(0).random((2, 1, 60))
    assert paired_p_value(before, after) == pytest.approx(ttest_rel(after[0], before[0]).pvalue), "one run of each"
    runs = np.arange(3.0)[:, None] * np.ones(60)  # runs differ, prompts do not: t with 2 degrees of freedom
    assert paired_p_value(np.zeros((1, 60)), runs) == pytest.approx(ttest_rel([0, 1, 2], [0, 0, 0]).pvalue)
    assert paired_p_value(before, before) == 1.0


def test_the_problems_of_gsm8k_are_split_once(tmp_path: Path) -> None:
    for name, size in (("train", 30), ("test", 12)):
        rows = [
            json.dumps({"problem": f"{name} {i}\u2028", "solution": "<<1+1=2>>" * (i % 4)}, ensure_ascii=False)
            for i in range(size)
        ]
        (tmp_path / f"gsm8k_{name}.jsonl").write_text("\n".join(rows) + "\n")
    split(tmp_path, tmp_path / "out", sft_problems=18, test_problems=5)

    def problems(folder: str) -> list[set[str]]:
        files = ("sft/gsm8k_train.jsonl", "rl/gsm8k_train.jsonl", "rl/gsm8k_test.jsonl")
        texts = [(tmp_path / folder / file).read_text().split("\n") for file in files]
        return [{json.loads(line)["problem"] for line in text if line} for text in texts]

    sft, rl, test = problems("out")
    assert (len(sft), len(rl), len(test)) == (18, 12, 5) and not sft & rl
    split(tmp_path, tmp_path / "short", most_calculations=2, sft_problems=18, test_problems=5)
    for short, part in zip(problems("short"), (sft, rl, test), strict=True):
        assert short == {problem for problem in part if int(problem.strip().split()[1]) % 4 in (1, 2)}
    with pytest.raises(ValueError, match="too few for the plan"):
        split(tmp_path, tmp_path / "out", sft_problems=30, test_problems=5)
