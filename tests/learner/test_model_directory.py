"""Local model directories are checked before anything heavy starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from learner.backends.model_directory import check_model_directory, copy_companions, load_causal_lm, pad_token_of


def test_missing_directory_and_config_name_the_key(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model\.path: no directory"):
        check_model_directory(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"model\.path: .*config\.json"):
        check_model_directory(tmp_path)


def test_unknown_dtype_names_the_key(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model\.dtype"):
        load_causal_lm(tmp_path, "float8")


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
