"""A verifier learns a rule, is written, read back, and scores a group as it was measured."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

import bonrl
from learner.tiny_model import TinyModelSettings, character_tokenizer, save_tiny_model
from verifiers.learned.classifier import Classifier, TransformersLogits, batches, read_card
from verifiers.learned.samples import Sample, split_by_prompt
from verifiers.learned.sequences import encode
from verifiers.learned.training import TrainingSettings, default_rate, measure, train_verifier
from verifiers.scorers import make_scorer
from verifiers.settings import TaskSettings
from verifiers.task import Prepared, Prompt
from verifiers.text.rendering import PromptFormat
from verifiers.verdict import Verdict

TINY = TinyModelSettings(width=32, layers=1, feed_forward=64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A verifier of the rule: the answer ends with the digit that the prompt shows."""
    base = tmp_path_factory.mktemp("verifier")
    rng = random.Random(0)
    samples = []
    for prompt in range(400):
        shown = rng.randrange(10)
        for ending in {shown, *rng.sample(range(10), 2)}:
            samples.append(Sample(str(prompt), f"{shown}=", f"{rng.randrange(1000)}+{ending}", ending == shown))
    lines: list[str] = []
    settings = TrainingSettings(epochs=15, learning_rate=3e-3, batch_tokens=256)
    parts = split_by_prompt(samples)
    backbone = save_tiny_model(base / "backbone", TINY, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    result = train_verifier(backbone, parts, settings, base / "verifier", report=lines.append)
    torch.set_num_threads(threads)
    return base, result, lines


@pytest.mark.slow
def test_the_rule_is_learned_and_reported_on_unseen_prompts(trained) -> None:
    base, result, lines = trained
    assert len(lines) == 16 and lines[0] == "learning rate 0.003" and "training loss" in lines[1]
    assert result.quality.auc > 0.97 and result.quality.auc_within > 0.97
    card = json.loads((base / "verifier" / "verifier.json").read_text())
    assert card["test"]["auc"] == result.quality.auc and not list(base.glob(".*"))


@pytest.mark.slow
def test_what_was_written_scores_as_it_was_measured(trained) -> None:
    base, result, _ = trained
    scorer = make_scorer(TaskSettings(scorer={"kind": "learned", "path": str(base / "verifier"), "batch_tokens": 64}))
    assert isinstance(scorer, Prepared) and "loaded" in scorer.prepare()
    for sample, probability in list(zip(result.test, result.probability, strict=True))[:20]:
        prompt = Prompt(sample.prompt_id, sample.prompt, {}, "")
        responses = [sample.response, "1+2+3+4+5", sample.response]  # others in the batch do not matter
        scores = scorer.scores(prompt, responses, [Verdict.failed("")] * 3)
        assert scores[0] == scores[2] == pytest.approx(probability, abs=1e-6)


@pytest.mark.slow
def test_a_refresh_starts_from_the_earlier_verifier_and_is_compared_on_the_same_answers(trained, tmp_path) -> None:
    base, result, _ = trained
    before = measure(base / "verifier", result.test, 256)
    for name in ("auc", "auc_within", "log_loss", "ece", "false_accepts"):
        assert getattr(before, name) == pytest.approx(getattr(result.quality, name), abs=1e-5), name
    lines: list[str] = []
    samples = [Sample(str(i), "3=", f"{i}+{end}", end == 3) for i in range(200) for end in (3, 7)]
    settings = TrainingSettings(epochs=1, learning_rate=1e-5, batch_tokens=256)
    train_verifier(base / "verifier", split_by_prompt(samples), settings, tmp_path / "next", report=lines.append)
    assert float(lines[1].split("training loss ")[1].split()[0]) < 0.2, "a new head would begin at 0.7"


def test_one_text_is_not_taken_for_its_characters() -> None:
    classifier = object.__new__(Classifier)
    with pytest.raises(TypeError, match=r"give a list of texts, \[response\]"):
        classifier.probabilities("prompt", "answer")


@pytest.mark.slow
def test_a_served_verifier_scores_as_it_was_measured(trained) -> None:
    base, result, _ = trained
    sample = result.test[0]
    found = bonrl.load_verifier(base / "verifier").probabilities(sample.prompt, [sample.response, "1+2+3+4+5"])
    assert found[0] == pytest.approx(result.probability[0], abs=1e-6) and found[1] != found[0]


def test_batches_bound_the_padded_size_and_lose_nothing() -> None:
    lengths = [3, 9, 1, 1, 7, 30, 2]
    found = batches(lengths, 16)
    assert sorted(i for rows in found for i in rows) == list(range(7))
    assert all(len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= 16 for rows in found)


@pytest.mark.slow
def test_results_stay_with_their_sequence(trained) -> None:
    base, _, _ = trained
    logits = TransformersLogits.load(base / "verifier", 32)
    sequences = [[1, 5, 6, 7], [1, 9], [1, 5, 6, 7, 8, 9, 10], [1, 4, 4]]
    together = logits(sequences)
    np.testing.assert_allclose(together, [logits([ids])[0] for ids in sequences], atol=1e-5)


def test_long_texts_lose_their_beginning() -> None:
    tokenizer = character_tokenizer()
    whole = encode("123=", "4+5", tokenizer, PromptFormat(), 100)
    assert whole[0] == tokenizer.bos_token_id and tokenizer.decode(whole[1:]) == "123=4+5"
    assert encode("123=", "4+5", tokenizer, PromptFormat(), 3) == whole[-3:]


def test_a_directory_that_is_no_verifier_is_refused_before_anything_is_loaded(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"needs task\.scorer\.path"):
        make_scorer(TaskSettings(scorer={"kind": "learned"}))
    with pytest.raises(ValueError, match=r"task\.scorer\.path: .*not a trained verifier"):
        make_scorer(TaskSettings(scorer={"kind": "learned", "path": str(tmp_path)}))
    (tmp_path / "verifier.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99"):
        read_card(tmp_path)
    (tmp_path / "verifier.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Classifier(tmp_path, lambda sequences: np.zeros(len(sequences)))


def test_rate_follows_the_backbone_and_cut_off_prompts_are_reported(tmp_path) -> None:
    assert (default_rate(1_800_000), default_rate(135_000_000)) == (3e-4, 1e-5)
    rows = [Sample(str(i), "1234=", a * (1 + i % 2), a == "4") for i in range(60) for a in "47"]
    backbone = save_tiny_model(tmp_path / "backbone", TINY, seed=0)
    lines: list[str] = []
    settings = TrainingSettings(epochs=1, max_tokens=8)
    parts = split_by_prompt(rows)
    train_verifier(backbone, parts, settings, tmp_path / "out", report=lines.append)
    card = json.loads((tmp_path / "out" / "verifier.json").read_text())
    assert card["settings"]["learning_rate"] == 3e-4
    reach = sum(len(s.response) == 2 for s in parts.train)  # begin token, five of the prompt, two of the answer
    assert lines[1].startswith(f"warning: {reach} of {len(parts.train)} prompts with their answers reach --max-tokens")


def test_a_backbone_that_is_none_is_refused(tmp_path) -> None:
    parts = split_by_prompt([Sample(str(i), "", a, a == "r") for i in range(100) for a in "rw"])
    with pytest.raises(ValueError, match="--backbone .*no config.json"):
        train_verifier(tmp_path, parts, TrainingSettings(), tmp_path / "out", report=print)
    assert not (tmp_path / "out").exists()
