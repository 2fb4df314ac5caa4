"""Labelled answers out of a run's groups, and what selecting by a verifier is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.queue.group_log import write_groups
from cluster.commands.verifier_training import read_samples, selection, train
from cluster.config import build_config
from cluster.errors import UsageError
from learner.tiny_model import character_tokenizer
from tests.actors.test_group import make_group
from verifiers.learned.calibration import Quality
from verifiers.learned.samples import Sample
from verifiers.learned.training import Trained, TrainingSettings
from verifiers.tasks.registry import make_task

CONFIG = build_config({"task": {"train_size": 4, "validation_size": 2, "test_size": 2}, "evaluation": {"prompts": 2}})


def groups(tmp_path, prompt_id: str):
    tokenizer = character_tokenizer()
    group = make_group((1, 1, 1), graded=False)
    tokens = [np.array([*tokenizer.encode(text, add_special_tokens=False), 2], np.int32) for text in ("1+2", "9", "8")]
    logprobs = [np.zeros(len(t), np.float32) for t in tokens]
    versions = [np.zeros(len(t), np.int32) for t in tokens]
    group = replace(
        group, response_tokens=tokens, behaviour_logprobs=logprobs, token_versions=versions, prompt_id=prompt_id
    )
    verdicts = ["correct", "wrong", "verifier_error"]
    graded = group.with_grades(np.array([1.0, 0.0, np.nan]), np.zeros(3), verdicts, [None] * 3, np.zeros(3))
    path = tmp_path / "groups" / "evaluation.parquet"
    path.parent.mkdir()
    write_groups(path, [graded.to_record_batch()])
    return path


def test_groups_become_samples_with_the_text_of_their_prompt(tmp_path) -> None:
    prompt = make_task(CONFIG.task).prompts("train")[1]
    path = groups(tmp_path, prompt.id)
    expected = [Sample(prompt.id, prompt.text, "1+2", True), Sample(prompt.id, prompt.text, "9", False)]
    assert read_samples(path, CONFIG) == read_samples(path.parent, CONFIG) == expected, "no verdict, no label"


def test_groups_of_another_task_and_empty_places_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="'elsewhere/1' is none of task.name"):
        read_samples(groups(tmp_path, "elsewhere/1"), CONFIG)
    (tmp_path / "empty").mkdir()
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
