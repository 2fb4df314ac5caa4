"""Reading a run: complete, under way, of an earlier release, and paths that hold none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.group import GROUP_SCHEMA
from cluster.config import build_config
from cluster.records.metric_names import MetricError
from cluster.records.user_code import plugins_as_used
from cluster.results import ResultsError, load_run
from cluster.results.group_records import advantages
from learner.estimators import group_advantages
from tests.actors.test_group import version_3
from tests.actors.workers.test_learning_step import graded
from tests.cluster.results.recorded import evaluation_groups, group, make_run, write
from tests.cluster.run.test_replay import QUARANTINED


def content(directory: Path) -> dict[str, tuple[int, bytes]]:
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_a_run_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    before = content(path)
    run = load_run(path)
    assert (run.name, run.finished, run.last_step) == ("a", True, 2)
    assert run.run_config.objective.k == 2 and run.config["rollout"]["n"] == 4
    assert run.git == {"commit": "c0ffee"} and run.versions == {"python": "3.11"}
    assert run.summary == {"steps": 2, "weights_sha256": "00"}
    assert [row["text"] for row in run.incidents] == ["no signal"]
    assert run.columns() == {
        "train/step": [1, 2], "time/s": [2.0, 4.0], "reward/mean": [0.375, 0.375], "time/step_s": [2, 2]
    }  # fmt: skip
    assert run.series("reward/mean") == ([1, 2], [0.375, 0.375])
    assert run.series("eval/pass@2")[0] == run.columns("evaluation/step")["evaluation/step"] == [0, 2]
    with pytest.raises(MetricError, match="unknown metric 'reward/meen'"):
        run.series("reward/meen")
    assert (run.group_steps, run.evaluation_steps) == ((1, 2), (0, 2))
    assert content(path) == before


def test_groups_are_readable_records(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, "a"))
    first, second = run.groups(2)
    assert (first.prompt_id, first.prompt, first.reference, first.fault) == ("t2", "problem t2", {"answer": "x0"}, "")
    sample = first.samples[0]
    assert (sample.response, sample.reward, sample.verdict, sample.answer) == ("t2 answer 0", 1.0, "correct", "x0")
    assert (sample.tokens, sample.weight_version, sample.truncated) == (3, 1, False)
    assert first.samples[3].truncated and first.samples[3].as_dict()["tokens"] == 6
    assert sample.logprob_mean is not None and sample.logprob_mean < 0
    expected = group_advantages([[1, 0, 0, 0], [1, 1, 0, 0]], strategy="pass_at_k", k=2)
    assert [[s.advantage for s in g.samples] for g in (first, second)] == expected.tolist()
    assert first.as_dict()["samples"][0]["response"] == "t2 answer 0"
    held_out = list(run.evaluation_groups(2))
    assert len(held_out) == 12 and {s.advantage for g in held_out for s in g.samples} == {None}
    with pytest.raises(ResultsError, match=r"no groups of optimizer step 9; recorded: 1-2"):
        next(run.groups(9))
    with pytest.raises(ResultsError, match=r"no groups of evaluation after step 1; recorded: 0, 2"):
        run.evaluation(1)


def test_evaluations_are_those_that_the_run_logged(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, "a"))
    base, last = run.evaluations
    assert last.objective is not None and last.objective.values_P is not None and len(last.objective.values_P) == 12
    logged = {name: run.series(name)[1] for name in ("eval/objective", "eval/pass@4_low", "eval/reward_mean")}
    assert logged == {name: [base.row()[name], last.row()[name]] for name in logged}
    assert last.prompt_ids[:2] == ("p0", "p1") and last.objective.standard_error > 0


def test_a_run_under_way_is_read_up_to_its_last_whole_record(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    (path / "summary.json").unlink()
    for name in ("metrics.jsonl", "incidents.jsonl"):
        with (path / name).open("a") as file:
            file.write('{"train/step": 3, "rew')
    whole = (path / "groups" / "step-000002.parquet").read_bytes()
    (path / "groups" / "step-000003.parquet").write_bytes(whole[: len(whole) // 2])
    (path / "groups" / "evaluation-000003.parquet").write_bytes(b"")
    run = load_run(path)
    assert not run.finished and run.summary is None
    assert (run.last_step, run.group_steps, run.evaluation_steps, len(run.incidents)) == (2, (1, 2), (0, 2), 1)


def test_groups_that_were_not_used_say_why(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    failed = graded([1, 0, 0, 0])
    failed = failed.with_grades(
        np.array([np.nan, 0, 0, 0]), np.array([np.nan, 0, 0, 0]), ["verifier_error", *["wrong"] * 3], [None] * 4,
        np.zeros(4), ["out of memory", "", "", ""],
    )  # fmt: skip
    write(path / "groups" / "step-000003.parquet", [failed, QUARANTINED, group("t", [1, 0, 0, 0], version=2)])
    faulty, given_up, used = load_run(path).groups(3)
    assert "out of memory" in faulty.fault and faulty.samples[0].reward is None and faulty.samples[1].advantage is None
    assert "quarantined" in given_up.fault and given_up.samples == () and given_up.prompt is None
    assert used.fault == "" and used.samples[0].advantage


def test_an_evaluation_that_judged_nothing_is_left_out(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    write(path / "groups" / "evaluation-000003.parquet", [QUARANTINED])
    run = load_run(path)
    assert [found.step for found in run.evaluations] == [0, 2]
    with pytest.raises(ResultsError, match="failed on every prompt"):
        run.evaluation(3)


def test_files_of_the_first_release_are_read_without_texts(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    batches = [version_3(one.to_record_batch()) for one in evaluation_groups(0.5, 0)]
    pq.write_table(pa.Table.from_batches(batches), path / "groups" / "evaluation-000002.parquet")
    run = load_run(path)
    found = next(run.evaluation_groups(2))
    assert found.prompt is None and found.samples[0].response is None and found.samples[0].tokens == 3
    assert run.evaluation(2).n == 4


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"loss": {"kl_coefficient": 0.1, "kl_placement": "reward"}}, 0),
        ({"objective": {"k": 2, "off_policy": "exact"}}, 1),
    ],
)
def test_advantages_that_need_the_model_are_not_made_up(changes: dict, version: int) -> None:
    config = build_config({"objective": {"k": 2}, "rollout": {"n": 4}} | changes)
    groups = [graded([1, 0, 0, 0])]
    assert advantages(config, groups, version + 1) == [None]
    [found] = advantages(build_config({"objective": {"k": 2}, "rollout": {"n": 4}}), groups, version + 1)
    assert found is not None


def test_groups_that_the_objective_refuses_have_no_advantages() -> None:
    """A run with --rollout-only records them all the same."""
    config = build_config({"objective": {"k": 2}, "rollout": {"n": 4}})
    assert advantages(config, [graded([1, 0])], 1) == [None]


def test_parts_of_a_reward_are_named(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    parts = replace(
        group("t", [1, 0]), part_names=["right", "short"], parts=[np.array([1, 0.5]), np.array([0, np.nan])]
    )
    write(path / "groups" / "step-000003.parquet", [parts])
    [found] = load_run(path).groups(3)
    assert [sample.parts for sample in found.samples] == [{"right": 1.0, "short": 0.5}, {"right": 0.0, "short": None}]
    assert next(load_run(path).groups(1)).samples[0].parts == {}


def test_a_plugin_that_has_changed_is_loaded_from_the_runs_copy(tmp_path: Path) -> None:
    path, plugin = make_run(tmp_path, "a"), tmp_path / "mine.py"
    plugin.write_text("as used")
    copy = path / "user_code" / "mine-1.py"
    copy.parent.mkdir()
    copy.write_bytes(plugin.read_bytes())
    (path / "config.yaml").write_text(f"plugins: [{plugin}]\n")
    entry = {
        "reference": str(plugin),
        "file": str(plugin),
        "sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
        "copy": "user_code/mine-1.py",
    }
    (path / "user_code.json").write_text(json.dumps({"plugins.0": entry}))
    assert plugins_as_used(path, [str(plugin)]) == [str(plugin)]
    plugin.write_text("changed")
    assert plugins_as_used(path, [str(plugin)]) == [str(copy)]
    plugin.unlink()
    assert plugins_as_used(path, [str(plugin), "package.module"]) == [str(copy), "package.module"]


def test_paths_without_a_run_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "a")
    make_run(tmp_path / "runs", "b")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "evaluation.json").write_text("{}")
    for path, message in {
        tmp_path / "nowhere": "does not exist",
        tmp_path / "runs": rf"contains 2 runs \(a, b\); give one of them, such as {run}",
        tmp_path / "model": "is a model directory",
        tmp_path / "eval": "is a directory of `bonrl eval --output`",
        run / "groups": rf"is a part of the run {run}",
        run / "config.yaml": "is a file",
        tmp_path: "has no config.yaml",
    }.items():
        with pytest.raises(ResultsError, match=message):
            load_run(path)
    (run / "config.yaml").write_text("run: {seed: 0}\nnew_section: {key: 1}\n")
    with pytest.raises(ResultsError, match="cannot be used by this release"):
        _ = load_run(run).run_config


def test_reading_needs_neither_ray_nor_torch() -> None:
    code = (
        "import sys, cluster.results\n"
        "print(sorted({'ray', 'torch', 'vllm', 'transformers', 'deepspeed', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_every_column_and_file_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "run-directory.md").read_text(encoding="utf-8")
    missing = [name for name in GROUP_SCHEMA.names if f"| `{name}` |" not in page]
    assert not missing


def test_log_probabilities_that_are_not_numbers_are_none_in_json(tmp_path: Path) -> None:
    """Of a run whose weights an update broke; JSON has no NaN."""
    run = make_run(tmp_path, "run")
    broken = group("broken", [1, 0], version=1)
    nan = [np.full_like(one, np.nan) for one in broken.behaviour_logprobs]
    write(run / "groups" / "step-000002.parquet", [replace(broken, behaviour_logprobs=nan)])
    (found,) = load_run(run).groups(2)
    assert [sample.logprob_mean for sample in found.samples] == [None, None]
    json.dumps(found.as_dict(), allow_nan=False)
