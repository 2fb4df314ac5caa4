"""The configuration: every refusal names the key, the value and the remedy; nothing is misread silently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import ConfigError, RunConfig, build_config, key_paths, load_config, nearest_key
from cluster.config.other_names import EPOCHS, OTHER_NAMES
from cluster.config.reference import models_in, render_reference
from cluster.config.wording import _PATTERNS

YAML_FILES = ("local", "8xh100", "multinode", "one-gpu", "smollm2-math")


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
    config = load_config(repository / "cluster" / "presets" / f"{name}.yaml")
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
    if meant == "rollout.prompts_per_step":  # the section itself is misspelt: report it first
        meant = "rollout"
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize(("name", "meant"), OTHER_NAMES.items())
def test_names_of_other_trainers_lead_to_an_existing_key(name: str, meant: str) -> None:
    keys = key_paths()
    inside = {
        f"{key}.{leaf}" for key, info in keys.items() for m in models_in(info.annotation) for leaf in m.model_fields
    }
    assert meant in keys or meant in inside
    assert f"did you mean {meant}?" in refusal({"run": {name: 1}})


@pytest.mark.parametrize("name", EPOCHS)
def test_epochs_lead_to_the_number_of_steps(name: str) -> None:
    for tree in ({name: 3}, {"run": {name: 3}}):
        message = refusal(tree)
        assert "there are no epochs: run.steps = epochs x training prompts / rollout.prompts_per_step" in message


def test_every_pattern_of_a_text_has_words() -> None:
    def patterns(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict) and isinstance(tree.get("pattern"), str):
            yield tree["pattern"]
        if isinstance(tree, dict | list):
            for value in tree.values() if isinstance(tree, dict) else tree:
                yield from patterns(value)

    found = set(patterns(RunConfig.model_json_schema()))
    assert len(found) > 5 and found <= set(_PATTERNS)


def test_a_section_of_verl_leads_to_the_page_about_its_settings() -> None:
    assert "docs/migrate.md" in refusal({"actor_rollout_ref": {"rollout": {"n": 5}}})


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        (
            {"objective": {"mixture": [{"weight": 1}, {"wieght": 0.3, "strategy": "mean", "k": 1}]}},
            ("objective.mixture.1.wieght: unknown key; did you mean objective.mixture.1.weight?",),
        ),
        ({"schedule": {"k": {"strat": 4}}}, ("schedule.k.strat: unknown key; did you mean schedule.k.start?",)),
        (
            {"objective": {"mixture": [{"zzzzzzzz": 1}]}, "objctive": {}},
            ("objective.mixture.0.zzzzzzzz: unknown key; docs/configuration.md", "did you mean objective?"),
        ),
    ],
)
def test_unknown_keys_inside_values_name_the_nearest_too(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    message = refusal(tree)
    for part in parts:
        assert part in message
    assert len(message.splitlines()) == len(parts)


def test_a_key_like_nothing_gets_no_silly_proposal() -> None:
    assert nearest_key("zzzzzzzz") is None
    assert "docs/configuration.md" in refusal({"zzzzzzzz": 1})


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"rollout": {"n": 0}}, ("rollout.n = 0", "greater than or equal to 1")),
        ({"rollout": {"n": "many"}}, ("rollout.n = 'many'", "whole number")),
        ({"rollout": {"n": 2.5}}, ("rollout.n = 2.5", "whole number")),
        ({"objective": {"k": True}}, ("objective.k = true", "whole number")),
        ({"objective": {"mixture": [{"k": True}]}}, ("objective.mixture.0.k = true", "whole number")),
        ({"learner": {"zero_stage": True}}, ("learner.zero_stage = true", "whole number")),
        ({"rollout": {"top_p": True}}, ("rollout.top_p = true", "gradient")),
        ({"schedule": {"kl": 3}}, ("schedule.kl = 3", "loss.kl_coefficient")),
        ({"run": {"seed": {}}}, ("run.seed = {}", "whole number", "same weights")),
        ({"run": {"steps": {"a": 1}}}, ("run.steps = {'a': 1}", "whole number")),
        ({"run": {1: 2}}, ("run.1: unknown key",)),
        ({"actors": {"samplers": True}}, ("actors.samplers = true", "whole number")),
        ({"actors": {"samplers": {"min": True, "max": 2}}}, ("actors.samplers.min = true", "whole number")),
        ({"actors": {"samplers": {"mn": 1, "max": 2}}}, ("did you mean actors.samplers.min?",)),
        ({"schedule": {"k": {"start": True, "end": 1}}}, ("schedule.k.start = true",)),
        ({"schedule": {"kl": {"shape": "steps", "at": {50: True}}}}, ("schedule.kl.at.50 = true",)),
        ({"schedule": {"kl": {"shape": "constant", "end": 1}}}, ("shape constant needs `start`",)),
        ({"schedule": {"kl": {"shape": "constant", "start": 1, "over": 3}}}, ("over = 3", "shape constant")),
        ({"evaluation": {"strategies": ["pass_at_j"]}}, ("evaluation.strategies", "did you mean 'pass_at_k'?")),
        ({"evaluation": {"strategies": ["mean"]}}, ("evaluation.strategies", "eval/reward_mean")),
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


def test_variables_of_the_shell_are_not_taken_for_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.directory: $SCRATCH/runs` would make a directory of that name here."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text(
        "run: {directory: $SCRATCH/runs}\ntask: {name: jsonl, jsonl: {train: [b.jsonl, '/data/${USER}/a.jsonl']}}\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    directory, train = sorted(str(refused.value).splitlines())
    assert directory.startswith("run.directory = $SCRATCH/runs: $SCRATCH is not replaced here; write the directory")
    assert '"run.directory=$SCRATCH/runs"' in directory
    assert train.startswith("task.jsonl.train.1 = /data/${USER}/a.jsonl: ${USER} is not replaced")
    override = "task.jsonl.train=[b.jsonl, /data/${USER}/a.jsonl]"
    assert f'"{override}"' in train
    replaced = override.replace("${USER}", "me")  # what the shell passes on
    assert load_config(file, [replaced, "run.directory=runs"]).task.jsonl.train == ["b.jsonl", "/data/me/a.jsonl"]
    (tmp_path / "$SCRATCH").mkdir()
    assert load_config(file, ["task={name: countdown}"]).run.directory == "$SCRATCH/runs", "it has that name"


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
        ("run: {steps: 1}\nrun: {steps: 2}", "duplicate key"),
        ("run: {steps: 1, steps: 2}", "duplicate key"),
        ("run: {steps: 010}", "010 is not read as a number here"),  # YAML 1.1: 8
        ("run: {steps: 1:30}", "1:30 is not read as a number here"),  # YAML 1.1: 90
        ("1.5: 2", "not text"),
        ("rollout.n: 8", "rollout.n: a key with dots .* in a file write `rollout: {n: ...}`"),
        ("task: {jsonl.train: a.jsonl}", "in a file write `task: {jsonl: {train: ...}}`"),
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
        for section in models_in(info.annotation):
            assert section.model_config.get("extra") == "forbid", key
            assert section.model_config.get("frozen") is True, key
            assert section.model_config.get("allow_inf_nan") is False, key


def test_reference_page_is_up_to_date(repository: Path) -> None:
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == render_reference(), "run `make reference`"
    for key in key_paths():
        assert f"`{key}`" in page, key
    for line in page.splitlines():
        if line.startswith("| `"):
            assert line.replace("\\|", "").count("|") == 5, line
    assert "`L1` or `L2` or `L2b` or `L3` or `L4`" in page
    assert "<enum" not in page and "<class" not in page, "a type that no reader can write"


@settings(deadline=None, max_examples=40)
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


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("mlflow.tracking_uri=https://me:s3cret@host:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("mlflow.tracking_uri=postgresql://me:s3/cret@host/db", "MLFLOW_TRACKING_PASSWORD"),
        ("task.reward=https://s3cret@host/score", "task.reward_token_variable"),
        ("task.reward=https://host/score?api_key=s3cret", "task.reward_token_variable"),
        ("task.options={judges: [{url: 'http://a:s3cret@b'}]}", "environment variable"),
        ("mlflow.traking_uri=https://me:s3cret@host", "environment variable"),
        ("model.path=https://me:s3cret@host/model", "environment variable"),
        ("https://me:s3cret@host", "not of the form"),
        ("mlflow.tracking_uri={https://me:s3cret@host", "not valid YAML"),
    ],
)
def test_credentials_in_addresses_are_refused_and_not_repeated(repository: Path, override: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(repository / "cluster" / "presets" / "local.yaml", [override])
    assert remedy in str(error.value) and "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.n=abc", "rollout.n = 'abc': should be a whole number"),
        ("rollout.n=", "rollout.n = null: should be a whole number"),
        ("sampler.kv_cache_gib=1GiB", "should be a number, without a unit"),
        ("tracking=wandb", "tracking = 'wandb': should be a list, for example [wandb]"),
        ("tracking=none", "tracking = 'none': should be a list, [] for none"),
        ("task.reward_weights=[1]", "task.reward_weights = [1]: should be a mapping, for example {name: value}."),
        ("learner.lora=16", "learner.lora = 16: should be a mapping of its own keys, for example {rank: ...}"),
        ("objective.mixture=[1]", "objective.mixture.0 = 1: should be a mapping of its own keys"),
        ("run.name=a/b", "should have at most 100 characters"),
        ("cluster.name=My_Cluster", "should have at most 40 characters, only a-z, 0-9 and hyphen"),
        ("cluster.storage={nfs: 10.0.0.10}", "should be HOST:/EXPORT"),
        ("cluster.storage.bucket=models", "should be s3://NAME or gs://NAME"),
        ("cluster.slurm.time=12 hours", "should be HH:MM:SS or DAYS-HH:MM:SS"),
        ("cluster.slurm.time=24:00:00", "put quotes around a text"),
        ("task.date=tomorrow", "should be a date, written YYYY-MM-DD"),
        ("wandb.mode=off", "wandb.mode = false: should be 'auto'"),
        ("wandb.mode=off", "a word has to be in quotes"),
        ("learner.packing=maybe", "should be true or false"),
        ("learner.lr=1e-5", "did you mean learner.learning_rate?"),
        ("actors.sampler=2", "did you mean actors.samplers?"),
        ("learner.lora={r: 8}", "did you mean learner.lora.rank?"),
        ("rollout.num_generations=8", "did you mean rollout.n?"),
        ("learning_rate=1e-5", "did you mean learner.learning_rate?"),
        (
            "run.name=2026-11-23",
            "run.name = 2026-11-23: should be text: put it in quotes (on the command line '\"2026-",
        ),
        ("run.name=12345", "put it in quotes (on the command line '\"12345\"')"),
        ("objective.mixture=[{strategy:", "put an override with blanks in quotes"),
        ("my.yaml", "a configuration is given with --config my.yaml"),
        ("task.jsonl.train=problems.jsonl", "task.jsonl.train is not read with task.name=countdown"),
    ],
)
def test_a_refusal_is_plain_english_and_names_what_was_meant(repository: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(repository / "cluster" / "presets" / "local.yaml", [override])
    assert message in str(refused.value)
    assert "input should" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("pass@8", "pass_at_k@8"),
        ("eval/pass@8", "pass_at_k@8"),
        ("maj@4", "majority_at_k@4"),
        ("best_of_k@4", "best_of_k@4"),
        ("eval/reward_mean", "reward_mean"),
    ],
)
def test_keep_best_takes_the_names_that_tables_and_metrics_use(given: str, kept: str) -> None:
    assert build_config({"evaluation": {"keep_best": given}}).evaluation.keep_best == kept
