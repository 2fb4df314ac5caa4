"""Labeled answers out of a run's groups, and what selecting by a verifier is worth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from actors.queue.group_log import write_groups
from cluster.commands.app import app
from cluster.commands.printing import print_refresh
from cluster.commands.verifier_samples import read_all, read_samples, recorded_config
from cluster.commands.verifier_training import check_earlier, selection, train
from cluster.config import build_config
from cluster.errors import UsageError
from learner.tiny_model import character_tokenizer
from tests.actors.test_group import make_group
from verifiers.learned.calibration import Quality
from verifiers.learned.samples import Sample
from verifiers.learned.training import Trained, TrainingSettings
from verifiers.tasks.registry import make_task

CONFIG = build_config({"task": {"train_size": 4, "validation_size": 2, "test_size": 2}, "evaluation": {"prompts": 2}})


def groups(tmp_path, prompt_id: str, **texts):
    tokenizer = character_tokenizer()
    group = make_group((1, 1, 1), graded=False)
    tokens = [np.array([*tokenizer.encode(text, add_special_tokens=False), 2], np.int32) for text in ("1+2", "9", "8")]
    logprobs = [np.zeros(len(t), np.float32) for t in tokens]
    versions = [np.zeros(len(t), np.int32) for t in tokens]
    group = replace(
        group, response_tokens=tokens, behaviour_logprobs=logprobs, token_versions=versions, prompt_id=prompt_id
    )
    verdicts = ["correct", "wrong", "verifier_error"]
    graded = group.with_grades(np.array([1.0, 0.0, np.nan]), np.zeros(3), verdicts, [None] * 3, np.zeros(3), **texts)
    path = tmp_path / "groups" / "evaluation.parquet"
    path.parent.mkdir()
    write_groups(path, [graded.to_record_batch()])
    return path


def test_groups_become_samples_with_the_text_of_their_prompt(tmp_path) -> None:
    prompt = make_task(CONFIG.task).prompts("train")[1]
    path = groups(tmp_path, prompt.id)
    expected = [Sample(prompt.id, prompt.text, "1+2", True), Sample(prompt.id, prompt.text, "9", False)]
    assert read_samples(path, CONFIG) == read_samples(path.parent, CONFIG) == expected, "no verdict, no label"


def test_groups_that_hold_their_texts_need_neither_task_nor_tokenizer(tmp_path) -> None:
    path = groups(tmp_path, "own/1", prompt_text="What is 1+1?", response_text=["2", "3", "4"])
    config = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"path": "no/model"})})
    assert read_samples(path, config) == [
        Sample("own/1", "What is 1+1?", "2", True),
        Sample("own/1", "What is 1+1?", "3", False),
    ]


def test_only_prompts_of_a_split_count(tmp_path) -> None:
    prompt = make_task(CONFIG.task).prompts("train")[1]
    path = groups(tmp_path, prompt.id)
    lines: list[str] = []
    assert len(read_all([path], CONFIG, "train", lines.append)) == 2
    assert lines == ["2 of 2 answers are to prompts of the split 'train'"]
    with pytest.raises(
        ValueError, match=r"--split test: no answer is to a prompt of the split 'test'.*--config RUN_DIR"
    ):
        read_all([path], CONFIG, "test", print)
    (tmp_path / "other").mkdir()
    path = groups(tmp_path / "other", prompt.id, prompt_text="another", response_text=["2", "3", "4"])
    with pytest.raises(ValueError, match=r"has another text than that of the split 'train'"):
        read_all([path], CONFIG, "train", print)


def test_own_rows_without_a_test_file(tmp_path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"id": str(n), "problem": f"{n}?", "answer": "1"}) + "\n" for n in range(9)))
    config = build_config({"task": {"name": "jsonl", "jsonl": {"train": str(file)}}})
    (sample, _) = read_samples(groups(tmp_path, "3"), config)
    assert sample.prompt.startswith("3?")


def test_the_configuration_is_that_of_the_run_or_the_evaluation(tmp_path) -> None:
    assert recorded_config([tmp_path / "none"], []) is None and recorded_config([tmp_path], []) is None
    (tmp_path / "evaluation.json").write_text(json.dumps({"config": CONFIG.to_mapping()}))
    (tmp_path / "config.yaml").write_text("run: {steps: 7}")  # the user's own, of no run
    found = recorded_config([tmp_path], ["task.template=chat"])
    assert found is not None and (found.task.train_size, found.task.template) == (4, "chat")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG.to_mapping()))
    path = groups(run, "x")
    assert recorded_config([path], []) == recorded_config([run], []) == CONFIG
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UsageError, match=r"evaluation\.json cannot be read .*give --config"):
        recorded_config([tmp_path], [])


def test_groups_of_another_task_and_empty_places_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="'elsewhere/1' is not one of the configured task"):
        read_samples(groups(tmp_path, "elsewhere/1"), CONFIG)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no such file"):
        read_samples(tmp_path / "none", CONFIG)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"no groups of a run \(it has no column 'prompt_id'\)"):
        read_samples(tmp_path / "other.parquet", CONFIG)
    with pytest.raises(ValueError, match="no Parquet files"):
        read_samples(tmp_path / "empty", CONFIG)
    with pytest.raises(UsageError, match="--output .* exists already"):
        train(CONFIG, [], tmp_path, TrainingSettings(), tmp_path, report=print)


def test_selection_counts_repeated_answers_as_deployment_does() -> None:
    test = [Sample("p", "", "r", True), Sample("p", "", "w", False)]
    found = Quality(2, 1, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, [])
    trained = Trained(found, test, np.array([0.4, 0.6]))  # a verifier that prefers the wrong answer
    samples = [test[0], test[0], test[1], Sample("another", "", "r", True)]
    rows = selection(trained, samples)
    assert [(row.k, row.prompts) for row in rows] == [(1, 1), (2, 1), (3, 1)]
    assert [row.best_of_k for row in rows] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert [row.pass_at_k for row in rows] == pytest.approx([2 / 3, 1.0, 1.0])


def test_a_refresh_needs_a_verifier_that_reads_prompts_alike(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--refresh: .* is not a trained verifier"):
        check_earlier(tmp_path, TrainingSettings())
    card = {"format": 2, "template": "plain", "max_tokens": 64, "platt": {"slope": 1.0, "intercept": 0.0}}
    (tmp_path / "verifier.json").write_text(json.dumps(card))
    check_earlier(tmp_path, TrainingSettings())
    with pytest.raises(UsageError, match="task.template = 'plain', but the configuration has 'chat'"):
        check_earlier(tmp_path, TrainingSettings(template="chat"))
    result = CliRunner().invoke(
        app, ["train-verifier", "--samples", "s", "--output", "o", "--refresh", "a", "--backbone", "b"]
    )
    assert result.exit_code != 0 and "leave one of them out" in str(result.exception)


def test_a_refresh_prints_both_verifiers(capsys) -> None:
    before = Quality(2, 1, 0.5, 1.0, None, 1.0, 0.0, 0.0, 0.0, [], 0.25)
    print_refresh(before, replace(before, false_accepts=0.125))
    shown = capsys.readouterr().out
    assert "0.2500" in shown and "0.1250" in shown and "wrong answers accepted" in shown and "none" in shown
