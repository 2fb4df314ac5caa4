"""The configuration: every refusal names the key, the value and the mend; nothing is read wrongly in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import ConfigError, RunConfig, build_config, key_paths, load_config, nearest_key, section_of
from cluster.reference import render_reference

YAML_FILES = ("local", "8xh100", "multinode", "smollm2-math")


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(tree)
    return str(caught.value)


def test_defaults_are_a_valid_run() -> None:
    config = build_config({})
    assert config.objective.k <= config.rollout.n
    assert build_config(config.to_mapping()) == config


@pytest.mark.parametrize("name", YAML_FILES)
def test_shipped_files_load_and_survive_a_round_trip(repository: Path, name: str) -> None:
    config = load_config(repository / "cluster" / f"{name}.yaml")
    assert build_config(yaml.safe_load(yaml.safe_dump(config.to_mapping()))) == config


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("objctive", "objective"),
        ("objective.kk", "objective.k"),
        ("rollout.staleness", "queue.staleness"),
        ("learner.lr_rate", "learner.learning_rate"),
        ("sampler.temperature", "rollout.temperature"),
        ("task.difficulty.hrad", "task.difficulty.hard"),
        ("rolout.prompts_per_stepp", "rollout.prompts_per_step"),
    ],
)
def test_unknown_key_names_the_nearest(written: str, meant: str) -> None:
    tree: dict[str, Any] = {}
    inner = tree
    *sections, leaf = written.split(".")
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[leaf] = 1
    message = refusal(tree)
    assert "unknown key" in message
    if meant == "rollout.prompts_per_step":  # the section itself is misspelt: that is the first thing to mend
        meant = "rollout"
    assert f"did you mean {meant}?" in message


def test_a_key_like_nothing_gets_no_silly_proposal() -> None:
    assert nearest_key("zzzzzzzz") is None
    assert "docs/configuration.md" in refusal({"zzzzzzzz": 1})


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"rollout": {"n": 0}}, ("rollout.n = 0", "greater than or equal to 1")),
        ({"rollout": {"n": "many"}}, ("rollout.n = 'many'", "integer")),
        ({"rollout": {"n": 2.5}}, ("rollout.n = 2.5", "integer")),
        ({"objective": {"k": True}}, ("objective.k = True", "not an integer")),
        ({"wandb": {"mode": "sometimes"}}, ("wandb.mode = 'sometimes'", "'auto', 'online'")),
        ({"rollout": {"top_p": 0.9}}, ("rollout.top_p = 0.9", "gradient", "exact")),
        ({"rollout": {"top_k": 50}}, ("rollout.top_k = 50", "top_p")),
        ({"run": 5}, ("run = 5", "section", "run.name")),
        ({"run": {"name": "../x"}}, ("run.name = '../x'",)),
        ({"learner": {"learning_rate": float("nan")}}, ("learner.learning_rate",)),
    ],
)
def test_type_and_range_errors_name_key_value_and_reason(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    message = refusal(tree)
    for part in parts:
        assert part in message


def test_every_problem_is_reported_at_once() -> None:
    message = refusal({"rollout": {"n": 0, "temperature": -1}, "run": {"steps": 0}})
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"objective": {"k": 17}}, ("objective.k = 17", "rollout.n = 16", "raise rollout.n")),
        ({"objective": {"k": 16}}, ("objective.k = 16", "loo1")),
        ({"objective": {"strategy": "mean", "k": 8}}, ("objective", "k = 1")),
        ({"objective": {"strategy": "pass_at_kk"}}, ("pass_at_k",)),
        ({"sampler": {"max_model_len": 10}}, ("sampler.max_model_len = 10", "rollout.max_response_tokens")),
        ({"learner": {"tokens_per_micro_batch": 64}}, ("learner.tokens_per_micro_batch = 64", "88")),
        ({"sampler": {"gpus": 2}}, ("sampler.tensor_parallel = 1", "sampler.gpus = 2")),
        ({"sampler": {"tensor_parallel": 2}}, ("sampler.tensor_parallel = 2", "sampler.gpus")),
        ({"learner": {"gpus_per_rank": 0.5}}, ("learner.gpus_per_rank = 0.5", "learner.ranks")),
        ({"learner": {"gpus_per_rank": 1, "ranks": 3}, "cluster": {"num_gpus": 2}}, ("3 GPUs", "cluster.num_gpus = 2")),
        ({"queue": {"overtake": 1}}, ("queue.overtake = 1", "queue.staleness")),
        ({"evaluation": {"n": 4}}, ("evaluation.n = 4", "objective.k = 8")),
        (
            {"evaluation": {"split": "test", "prompts": 300}, "task": {"test_size": 200}},
            ("evaluation.prompts = 300", "task.test_size = 200"),
        ),
    ],
)
def test_impossible_combinations_are_refused(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    message = refusal(tree)
    for part in parts:
        assert part in message


def test_loo1_allows_k_equal_to_n() -> None:
    assert build_config({"objective": {"k": 16, "estimator": "loo1"}}).objective.k == 16


def test_overrides_are_yaml_and_the_last_wins(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("objective: {k: 4}\nrun:\n")
    config = load_config(
        file,
        [
            "objective.k=2",
            "objective.k=3",
            "learner.learning_rate=1e-4",
            "run.name=null",
            "wandb.tags=[a, b]",
            "task.difficulty.hard=0",
            "run.directory=a=b",
        ],
    )
    assert config.objective.k == 3
    assert config.learner.learning_rate == 1e-4  # YAML 1.1 reads 1e-4 as text
    assert config.run.name is None
    assert config.wandb.tags == ("a", "b")
    assert config.task.difficulty.hard == 0
    assert config.run.directory == "a=b"


@pytest.mark.parametrize("override", ["objective.k", "=3", "objective..k=3", "objective.k=[", "run.name.x=1"])
def test_malformed_overrides_are_refused(tmp_path: Path, override: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("run: {name: x}\n")
    with pytest.raises(ConfigError, match="override"):
        load_config(file, [override])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must hold sections"),
        ("run: {steps: 1}\nrun: {steps: 2}", "stands twice"),
        ("run: {steps: 1, steps: 2}", "stands twice"),
        ("1.5: 2", "not text"),
        ("run: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=part):
        load_config(file)


def test_missing_directory_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "b.yaml"):
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            load_config(path)


def test_empty_file_is_the_default_run(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# nothing\n")
    assert load_config(file) == RunConfig()


def test_every_key_has_a_description() -> None:
    for key, info in key_paths().items():
        assert info.description and len(info.description) > 10, key


def test_sections_are_frozen_and_closed() -> None:
    for key, info in key_paths().items():
        section = section_of(info)
        if section is not None:
            assert section.model_config.get("extra") == "forbid", key
            assert section.model_config.get("frozen") is True, key


def test_reference_page_is_up_to_date(repository: Path) -> None:
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == render_reference(), "run `make reference`"
    for key in key_paths():
        assert f"`{key}`" in page, key
    for line in page.splitlines():
        if line.startswith("| `"):
            assert line.replace("\\|", "").count("|") == 5, line


@given(
    st.dictionaries(
        st.sampled_from(sorted(RunConfig.model_fields)) | st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_any_tree_is_accepted_or_refused_with_words(tree: dict[str, Any]) -> None:
    try:
        build_config(tree)
    except ConfigError as error:
        assert str(error).strip()
