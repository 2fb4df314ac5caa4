"""The class that a process gets the name of loads what `AutoTokenizer` loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from tests.tokenizers_of_models import byte_tokenizer
from verifiers.text.tokenizer_class import load_tokenizer_as, tokenizer_class

TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_5", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gpt_oss")
NAMED = (None, "PreTrainedTokenizerFast", "LlamaTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer", "Unknown")


def save(directory: Path, model_type: str, named: str | None) -> str:
    """A model directory without weights; `named`: the class in its tokenizer_config.json."""
    byte_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    path = directory / "tokenizer_config.json"
    settings = {key: value for key, value in json.loads(path.read_text()).items() if key != "tokenizer_class"}
    path.write_text(json.dumps(settings | ({"tokenizer_class": named} if named else {})))
    return str(directory)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_named_class_loads_the_same_tokenizer(tmp_path: Path, model_type: str) -> None:
    for named in NAMED:
        directory = save(tmp_path / str(named), model_type, named)
        automatic = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        name = tokenizer_class(automatic)
        loaded = load_tokenizer_as(name, directory)
        assert name == type(automatic).__name__ and type(loaded) is type(automatic)
        assert loaded.backend_tokenizer.to_str() == automatic.backend_tokenizer.to_str()
        assert loaded.init_kwargs == automatic.init_kwargs
        assert loaded.special_tokens_map == automatic.special_tokens_map


class OwnTokenizer(PreTrainedTokenizerFast):
    """Of user code; transformers does not have it."""


class OwnConfig(LlamaConfig):
    model_type = "own"


def test_a_class_of_user_code_is_left_to_the_automatic_choice(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.register("own", OwnConfig)
    AutoTokenizer.register(OwnConfig, OwnTokenizer)
    directory = save(tmp_path, "own", "OwnTokenizer")
    assert tokenizer_class(AutoTokenizer.from_pretrained(directory)) == "AutoTokenizer"
    assert type(load_tokenizer_as("AutoTokenizer", directory)) is OwnTokenizer


WORKER = """
import sys
import numpy as np
from actors.workers.verifier_worker import VerifierWorker
from verifiers.settings import TaskSettings

worker = VerifierWorker("verifier-0", TaskSettings(), sys.argv[1], tokenizer=sys.argv[2])
assert worker._decode([np.array([20, 21])])[0]
print(*sorted({"torch", "sklearn", "vllm"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_a_verifier_worker_imports_no_torch(repository: Path) -> None:
    model = str(repository / "models" / "countdown-base")
    command = [sys.executable, "-c", WORKER, model, tokenizer_class(AutoTokenizer.from_pretrained(model))]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
