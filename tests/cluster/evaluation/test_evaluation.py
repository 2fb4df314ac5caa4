"""Evaluation's curves: every strategy from one pool, and prompts without a verdict left out and counted."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.group_metrics import group_metrics
from actors.sampling import Sampling
from cluster import cli
from cluster.config import build_config
from cluster.evaluation import evaluate as evaluation
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.summary import NothingJudged, strategies_of, summarize, trained_ks_of
from cluster.records.metric_names import check_row
from cluster.run import job
from learner.strategies import STRATEGIES
from tests.actors.workers.test_learning_step import graded
from verifiers.task import Prompt
from verifiers.text.rendering import TokenizedPrompt

GROUPS = [
    graded([1, 0, 0, 0], scores=[0.1, 0.9, 0.2, 0.3], answers=["a", "b", "b", "c"]),
    graded([1, 1, 1, 0], scores=[0.9, 0.2, 0.1, 0.3], answers=["a", "a", "0.5", None]),
]
FAILED = replace(
    GROUPS[0],
    verdict=["correct", "verifier_error", "wrong", "wrong"],
    reward=np.array([1, np.nan, 0, 0]),
    detail=["", "out of memory", "", ""],
)


def test_every_strategy_from_one_pool() -> None:
    found = summarize(GROUPS, 7, Sampling(), 2.0, ["best_of_k", "majority_at_k", "max_at_k"])
    row = found.row()
    assert [row[f"eval/pass@{k}"] for k in (1, 2, 4)] == pytest.approx([0.5, 0.75, 1.0])
    assert row["eval/bo@4"] == 0.5, "the verifier ranks a wrong answer first in one of two groups"
    assert row["eval/maj@4"] == pytest.approx(0.5), "two b against one right answer; three right ones, however spelt"
    assert row["eval/max@4"] == 1.0 and row["eval/bo@4_low"] <= 0.5 <= row["eval/bo@4_high"]
    assert row["eval/set_aside"] == 0 and row["evaluation/step"] == 7


CURVES = [name for name, strategy in STRATEGIES.items() if strategy.only_k is None]


@pytest.mark.parametrize("strategy", CURVES)
def test_every_strategy_can_be_logged(strategy: str) -> None:
    """A name that the table of metrics lacks would end a run at its first evaluation."""
    row = summarize(GROUPS, 7, Sampling(), 2.0, [strategy]).row()
    assert f"eval/{STRATEGIES[strategy].metric}@2_low" in row
    check_row(row)


@pytest.mark.parametrize("strategy", CURVES)
def test_every_strategy_can_be_evaluated_with_rewards_of_any_size(strategy: str) -> None:
    """Those of rewards of 0 and 1 count what is correct."""
    groups = [replace(group, reward=1.1 * group.rewards - 0.1) for group in GROUPS]
    found = summarize(groups, 7, Sampling(), 2.0, [strategy]).curves[strategy]
    if STRATEGIES[strategy].count_value is not None:
        assert found == summarize(GROUPS, 7, Sampling(), 2.0, [strategy]).curves[strategy]


def test_prompts_without_a_verdict_are_left_out_and_counted() -> None:
    found = summarize([*GROUPS, FAILED], 0, Sampling(), 2.0)
    assert found.set_aside == 1 and found.curve == summarize(GROUPS, 0, Sampling(), 2.0).curve
    with pytest.raises(NothingJudged, match="failed on every prompt of the evaluation: prompt .*: out of memory"):
        summarize([FAILED], 0, Sampling(), 2.0)


def test_a_steps_metrics_count_what_was_set_aside() -> None:
    row = group_metrics(GROUPS, np.ones((2, 4)), 0, [FAILED])
    assert row["groups/set_aside"] == 1 and row["verifier/verifier_error_share"] == pytest.approx(1 / 12)
    assert row["reward/mean"] == 0.5 and row["groups/unique_answer_share"] == pytest.approx((3 / 4 + 3 / 4) / 2)


def test_the_objectives_strategies_are_always_evaluated() -> None:
    config = build_config(
        {
            "objective": {"strategy": "best_of_k", "mixture": [{"strategy": "mean", "k": 1}]},
            "evaluation": {"strategies": ["majority_at_k"]},
        }
    )
    assert strategies_of(config) == ["pass_at_k", "majority_at_k", "best_of_k"]


def test_the_curves_hold_every_k_that_is_trained_for() -> None:
    """k = 3 is no power of two, and yet what the run is for."""
    objective = {"k": 3, "mixture": [{"strategy": "mean", "k": 1}, {"k": 11}]}
    config = build_config({"objective": objective, "schedule": {"k": {"end": 5}}})
    assert trained_ks_of(config) == [1, 3, 5, 11]
    found = summarize(GROUPS, 7, Sampling(), 2.0, ["best_of_k"], trained_ks_of(config))
    assert [point.k for point in found.curve] == [1, 2, 3, 4], "11 answers are more than were drawn"
    assert {"eval/pass@3", "eval/bo@3"} <= found.row().keys()


class Pool:
    """Samplers and a verifier of which every sample is right below a temperature of 0.8, and every other one above.

    Prompts alternate between two levels. Scores fall with the number of the sample.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def deliver(self, request: Any, prompt: Prompt, take: Any, purpose: str) -> Any:
        self.requests.append(request)
        group = graded(
            [i % 2 == 0 or request.sampling.temperature < 0.8 for i in range(request.n)], scores=range(-request.n, 0)
        )
        asked = asdict(request.sampling) | {"sequence": request.sequence}
        batch = replace(group, level=f"level {request.sequence % 2}", **asked).to_record_batch()
        returned = asyncio.get_running_loop().create_future()
        returned.set_result(batch)
        return await take(returned)


def prompts_like(count: int) -> list[TokenizedPrompt]:
    return [TokenizedPrompt(Prompt(f"p{i}", "?", {}, "all"), np.array([1], np.int32)) for i in range(count)]


def evaluated(pool: Pool, **changes: Any) -> Any:
    arguments = dict(n=4, sampling=Sampling(), max_tokens=8, seed=0, step=0, max_in_flight=2) | changes
    return asyncio.run(evaluate(pool, prompts_like(3), **arguments))


def test_curves_are_computed_on_a_thread_with_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return summarize(*arguments)

    monkeypatch.setattr(evaluation, "summarize", watched)
    assert evaluated(Pool()).curve[-1].value == 1.0
    assert [thread.daemon for thread in threads] == [True], "the process can exit although the thread hangs"

    hangs = threading.Event()
    monkeypatch.setattr(evaluation, "summarize", lambda *_: hangs.wait(0.5))
    monkeypatch.setattr(evaluation, "SUMMARY_S", 0.01)
    monkeypatch.setattr(evaluation, "SUMMARY_S_PER_PROMPT", 0.0)
    with pytest.raises(TimeoutError, match="evaluation did not summarize 3 groups"):
        evaluated(Pool())


def replace_actors(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Pool:
    """Evaluations run in `repository` without Ray, on a simulated pool."""
    pool = Pool()

    async def unchanged(work: Any) -> Any:
        return await work

    async def start_rollouts(tokenizer: str) -> Pool:
        return pool

    asks = SimpleNamespace(unless_requested=unchanged)
    processes = SimpleNamespace(start_rollouts=start_rollouts, supervisor=SimpleNamespace(run=unchanged))
    monkeypatch.setattr(job, "Processes", lambda *_: processes)
    monkeypatch.setattr(job, "run_to_result", lambda _, work, conclude: conclude(asyncio.run(work(asks))))
    monkeypatch.setattr(job, "load_prompts", lambda config, *_: prompts_like(config.evaluation.prompts))
    monkeypatch.chdir(repository)
    return pool


def run_eval(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["bonrl", "eval", "--checkpoint", "models/countdown-base", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_several_temperatures_in_one_call(
    monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bonrl eval -t 0.7 -t 1.2` with the actors replaced: each curve of its own samples, all of it written down."""
    pool = replace_actors(monkeypatch, repository)
    arguments = [
        "--checkpoint",
        "models/countdown-base",
        "-t",
        "0.7",
        "-t",
        "1.2",
        "--n",
        "8",
        "-o",
        str(tmp_path / "x"),
    ]
    monkeypatch.setattr(sys, "argv", ["bonrl", "eval", *arguments, "evaluation.prompts=5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "temperature 0.7" in out and "temperature 1.2: 5 prompts x 8 samples, mean reward 0.5000" in out

    cold, hot = json.loads((tmp_path / "x" / "evaluation.json").read_text())["evaluations"]
    assert (cold["temperature"], hot["temperature"]) == (0.7, 1.2)
    assert (cold["eval/pass@1"], hot["eval/pass@1"], hot["eval/pass@8"]) == (1.0, 0.5, 1.0)
    assert cold["eval/pass@1_standard_error"] == 0 and cold["eval/pass@1_low"] < 1, "five prompts are no proof"
    assert [r.sampling.temperature for r in pool.requests] == [0.7] * 5 + [1.2] * 5 and {
        r.n for r in pool.requests
    } == {8}
    assert [r.seed for r in pool.requests[:5]] == [r.seed for r in pool.requests[5:]], "a paired comparison"
    for temperature in ("0.7", "1.2"):
        table = pq.read_table(tmp_path / "x" / f"groups-temperature-{temperature}.parquet")
        assert table.num_rows == 5 and set(table["temperature"].to_pylist()) == {np.float32(temperature).item()}

    # The same model again, compared with what was written, prompt by prompt.
    compared = ["-t", "1.2", "--n", "4", "--baseline", str(tmp_path / "x"), "evaluation.prompts=5"]
    monkeypatch.setattr(sys, "argv", ["bonrl", "eval", "--checkpoint", "models/countdown-base", *compared])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "temperature 1.2: 5 held-out prompts, 4 samples each" in out and "baseline" in out
    assert "+0.000, no prompt differs" in out, "pass@1 of every prompt is 0.5 in both"

    monkeypatch.setattr(sys, "argv", [*sys.argv, "-t", "0.9"])
    with pytest.raises(SystemExit) as refused:
        cli.main()
    assert refused.value.code == 2 and "no groups-temperature-0.9.parquet there" in capsys.readouterr().err


def test_one_prompt_has_no_standard_error_and_the_file_stays_json() -> None:
    found = summarize(GROUPS[:1], 0, Sampling(), 2.0)
    assert set(found.standard_errors().values()) == {None}
    assert not set(found.standard_errors()) & set(found.row())


def test_greedy_draws_one_sample_and_reports_pass_at_1_only(
    monkeypatch: pytest.MonkeyPatch, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = replace_actors(monkeypatch, repository)
    options = ["-t", "0", "-t", "1.2", "--top-p", "0.9", "--n", "8", "--strategy", "best_of_k"]
    assert not run_eval(monkeypatch, *options, "evaluation.prompts=5")
    out = capsys.readouterr().out
    assert "temperature 0 is greedy: one sample of each prompt, so only pass@1 is reported" in out
    assert "temperature 0 (greedy): 5 prompts x 1 samples" in out
    assert [(r.n, r.sampling.temperature, r.sampling.top_p) for r in pool.requests[:5]] == [(1, 0.0, 1.0)] * 5
    assert [(r.n, r.sampling.temperature, r.sampling.top_p) for r in pool.requests[5:]] == [(8, 1.2, 0.9)] * 5
    assert run_eval(monkeypatch, "-t", "0", "--top-p", "0.9") == 2
    assert "--top-p has no effect with -t 0" in capsys.readouterr().err
    assert run_eval(monkeypatch, "-t", "0.001") == 2
    assert "must be 0 (greedy), or 0.01 to 10" in capsys.readouterr().err


def test_json_holds_every_strategy_also_by_level(
    monkeypatch: pytest.MonkeyPatch, repository: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    replace_actors(monkeypatch, repository)
    options = ["--json", "--n", "4", "--strategy", "best_of_k", "--strategy", "majority_at_k"]
    assert not run_eval(monkeypatch, *options, "-o", str(tmp_path / "x"), "evaluation.prompts=6")
    captured = capsys.readouterr()
    [found] = json.loads(captured.out)["evaluations"]
    assert found["sampling"] == {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
    assert (found["n"], found["prompts"], found["eval/bo@4"]) == (4, 6, 0.0), "the last answer has the best score"
    assert [point["k"] for point in found["curves"]["majority_at_k"]] == [1, 2, 4]
    assert {level: part["prompts"] for level, part in found["levels"].items()} == {"level 0": 3, "level 1": 3}
    level = found["levels"]["level 1"]["curves"]["best_of_k"][-1]
    assert level["value"] == 0.0 and level["low"] == 0.0 < level["high"] < 1.0
    assert found["scorer_auc"]["value"] == 0.25 and found["eval/scorer_auc"] == 0.25
    assert "by level" in captured.err and "0.250 [" in captured.err and "AUC within prompts" in captured.err
    assert json.loads((tmp_path / "x" / "evaluation.json").read_text())["evaluations"] == [found]

    compared = ["--json", "--n", "4", "--top-k", "5", "--baseline", str(tmp_path / "x"), "evaluation.prompts=6"]
    assert run_eval(monkeypatch, *compared) == 2
    assert "sampled with temperature 1, this evaluation with temperature 1, top_k 5" in capsys.readouterr().err


def test_the_scorer_agrees_with_the_verdict_within_prompts() -> None:
    found = summarize(GROUPS, 0, Sampling(), 2.0)
    assert found.scorer_auc is not None
    assert found.scorer_auc.value == pytest.approx((0 + 1 / 3) / 2), "pairs of the same prompt only"
    assert summarize([graded([1, 0]), graded([0, 0])], 0, Sampling(), 2.0).scorer_auc is None, "the score is the reward"
    tied = summarize([graded([1, 0], scores=[3, 3])], 0, Sampling(), 2.0).scorer_auc
    assert tied is not None and tied.value == 0.5


def test_best_of_k_also_counts_correct_answers_where_rewards_hold_more() -> None:
    groups = [replace(group, reward=group.rewards + 0.1) for group in GROUPS]
    found = summarize(groups, 0, Sampling(), 2.0, ["best_of_k"])
    plain = summarize(GROUPS, 0, Sampling(), 2.0, ["best_of_k"])
    row = found.row()
    check_row(row)
    assert row["eval/bo_accuracy@2"] == pytest.approx(plain.row()["eval/bo@2"])
    assert row["eval/bo@2"] == pytest.approx(row["eval/bo_accuracy@2"] + 0.1)
    assert "eval/bo_accuracy@2" not in plain.row()
