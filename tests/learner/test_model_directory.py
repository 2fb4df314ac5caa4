"""Local model directories are checked before anything heavy starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.tiny_architectures import tiny_model
from cluster.checks.model_facts import read_model
from learner.backends.model_directory import check_model_directory, copy_companions, load_causal_lm, pad_token_of


def test_missing_directory_and_config_name_the_key(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model\.path: no directory"):
        check_model_directory(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"model\.path: .*config\.json"):
        check_model_directory(tmp_path)


def test_unknown_dtype_names_the_key(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model\.dtype"):
        load_causal_lm(tmp_path, "float8")


@pytest.mark.parametrize("architecture", ["Llama, tied", "Mixtral", "gpt-oss"])
def test_weights_in_the_models_dtype_are_mapped_from_the_files(architecture: str, tmp_path: Path) -> None:
    """So the ranks of a node share them until they are on the GPUs."""
    tiny_model(architecture).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="200KB")
    mapped = read_model(tmp_path).mapped
    for dtype in ("bfloat16", "float32"):
        model = load_causal_lm(tmp_path, dtype)
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
        ranges = [range(*(int(end, 16) for end in fields[0].split("-"))) for fields in lines]
        in_files = [p.numel() for p in model.parameters() if any(p.data_ptr() in place for place in ranges)]
        assert sum(in_files) == mapped.get(dtype, 0)
    assert mapped["bfloat16"] > 0 and (architecture == "Mixtral") == (
        mapped["bfloat16"] < sum(p.numel() for p in model.parameters())
    )


def test_companions_are_copied_and_weights_are_not(tmp_path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors", "README.md"):
        (source / name).write_text(name)
    assert sorted(copy_companions(source, target)) == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert not (target / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("config", "token"),
    [
        ({"pad_token_id": 5}, 5),
        ({"pad_token_id": None, "eos_token_id": [7, 8]}, 7),
        ({"pad_token_id": -1, "eos_token_id": 2}, 2),
        ({}, 0),
        ({"pad_token_id": 999}, 0),
    ],
)
def test_pad_token(config: dict, token: int) -> None:
    text = SimpleNamespace(vocab_size=10)
    assert pad_token_of(SimpleNamespace(get_text_config=lambda: text, **config)) == token
