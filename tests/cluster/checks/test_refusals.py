"""Bad models, addresses and files: exit status 2, key and remedy in the message, no traceback, from `--dry-run` too."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.checks.prompts import load_prompts
from cluster.checks.ray_cluster import check_address, layout_problems, role_problems, socket_problem
from cluster.config import build_config
from tests.cluster.launch.clusters import configuration
from tests.cluster.test_cli import run

__all__ = ["run"]

SMALL = ("task.train_size=8", "task.validation_size=2", "evaluation.prompts=2")
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def edit(**changes: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / CONFIG).write_text(json.dumps(json.loads((model / CONFIG).read_text()) | changes))

    return change


def shorten(model: Path) -> None:
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-100])


def poison(model: Path) -> None:
    content = bytearray((model / WEIGHTS).read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    (model / WEIGHTS).write_bytes(content)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(content) and None  # type: ignore[func-returns-value]


def only_index(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))


def edit_weights(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def rewrite(model: Path) -> None:
        weights = load_file(model / WEIGHTS)
        change(weights)
        save_file(weights, model / WEIGHTS, {"format": "pt"})

    return rewrite


def without(part: str) -> Callable[[Path], None]:
    return edit_weights(lambda weights: [weights.pop(name) for name in list(weights) if part in name] and None)  # type: ignore[func-returns-value]


def adapter_only(model: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        (model / name).unlink()
    (model / "adapter_config.json").write_text("{}")


def index_with_more(model: Path) -> None:
    names = [*load_file(model / WEIGHTS), "model.more.weight"]
    (model / WEIGHTS).rename(model / "a.safetensors")
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")})
    )


def read_header(model: Path) -> tuple[dict[str, dict[str, list[int]]], bytes]:
    content = (model / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def overlapping(model: Path) -> None:
    entries, data = read_header(model)
    first, second = [entry for name, entry in entries.items() if entry.get("shape") == [512, 192]][:2]
    first["data_offsets"] = second["data_offsets"]
    header = json.dumps(entries).encode()
    (model / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data)


def longer(model: Path) -> None:
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes() + b"\0" * 100)


def old_index(model: Path) -> None:
    """As save_pretrained leaves it that writes one file over a model of several."""
    names = dict.fromkeys(load_file(model / WEIGHTS), "model-00001-of-00001.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def unlinked(name: str) -> Callable[[Path], None]:
    """As a copied snapshot of the Hugging Face cache, whose files are links to blobs elsewhere."""

    def relink(model: Path) -> None:
        (model / name).unlink()
        (model / name).symlink_to("../../blobs/0123")

    return relink


MODELS = {
    "a weight is missing": (without("layers.1.self_attn.q_proj"), "lack model.layers.1.self_attn.q_proj.weight"),
    "a head of its own": (edit(tie_word_embeddings=False), "lack lm_head.weight"),
    "fewer layers": (edit(num_hidden_layers=2), "num_hidden_layers = 2"),
    "another shape": (edit(intermediate_size=777), "192 x 512, not 192 x 777; "),
    "a weight too many": (
        edit_weights(lambda weights: weights.update({"model.layers.0.more.weight": np.zeros(3, np.float32)})),
        "does not use the weights model.layers.0.more.weight",
    ),
    "whole numbers": (
        edit_weights(lambda weights: weights.update({n: w.astype(np.int32) for n, w in weights.items()})),
        "I32 are quantised",
    ),
    "unknown activation": (edit(hidden_act="foo"), "hidden_act = 'foo'"),
    "heads that do not divide": (edit(num_attention_heads=5, num_key_value_heads=5), "attention heads"),
    "no hidden size": (lambda m: edit(**{"hidden_size": None})(m), "hidden_size"),
    "compressed": (edit(compression_config={"quant_method": "x"}), "compression_config"),
    "architectures is text": (edit(architectures="LlamaForCausalLM"), "architectures"),
    "broken generation settings": (write("generation_config.json", b"{"), "generation_config.json"),
    "generation settings are a list": (write("generation_config.json", b"[]"), "generation_config.json"),
    "LoRA adapter": (adapter_only, "merge_and_unload"),
    "index of more": (index_with_more, "model.more.weight"),
    "cut off": (shorten, "cut off"),
    "bytes of no weight": (longer, "100 bytes after the last weight"),
    "weights that overlap": (overlapping, "do not begin where those before it end"),
    "index of an earlier model": (old_index, "delete model.safetensors.index.json if it is of an earlier model"),
    "weights of an adapter too": (write("adapter_model.safetensors", b""), "move that to another directory"),
    "link to lost weights": (unlinked(WEIGHTS), "model.safetensors is a link to a file that is not there"),
    "link to a lost config": (unlinked(CONFIG), "config.json is a link to a file that is not there"),
    "garbage": (write(WEIGHTS, b"\x00garbage" * 9), "damaged"),
    "empty": (write(WEIGHTS, b""), "damaged"),
    "no header": (write(WEIGHTS, struct.pack("<Q", 2) + b"[]"), "damaged"),
    "Git LFS pointer": (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "missing shard": (only_index, "model-1.safetensors"),
    "pytorch only": (lambda m: (m / WEIGHTS).rename(m / "pytorch_model.bin"), "save_pretrained"),
    "NaN": (poison, "NaN"),
    "text for a size": (edit(hidden_size="192"), "hidden_size = '192'"),
    "true for a size": (edit(num_hidden_layers=True), "num_hidden_layers = True"),
    "zero heads": (edit(num_attention_heads=-1), "num_attention_heads = -1"),
    "another width": (edit(hidden_size=256), "vocab_size x hidden_size"),
    "another vocabulary": (edit(vocab_size=9999), "vocab_size x hidden_size"),
    "more layers": (edit(num_hidden_layers=90), "num_hidden_layers = 90"),
    "quantised": (edit(quantization_config={"quant_method": "gptq"}), "before quantisation"),
    "broken tokenizer": (write("tokenizer.json", b"{"), "tokenizer"),
    "config is a list": (write(CONFIG, b"[]"), "config.json"),
    "config is cut off": (write(CONFIG, b'{"a": '), "config.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_trained(run, repository: Path, tmp_path: Path, case: str) -> None:  # type: ignore[no-untyped-def]
    change, part = MODELS[case]
    model = tmp_path / "model"
    shutil.copytree(repository / "models" / "countdown-base", model)
    change(model)
    status, _, err = run("train", "--dry-run", *SMALL, f"model.path={model}", f"run.directory={tmp_path}")
    assert status == 2 and "Traceback" not in err
    assert part in err and "model.path" in err


@pytest.mark.slow
def test_weights_that_transformers_does_not_load_are_not_counted(run, repository: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(repository / "models" / "countdown-base", tmp_path / "model")
    _, before, _ = run("train", "--dry-run", *SMALL, f"model.path={tmp_path / 'model'}")
    shutil.copy(tmp_path / "model" / WEIGHTS, tmp_path / "model" / "consolidated.safetensors")
    _, after, _ = run("train", "--dry-run", *SMALL, f"model.path={tmp_path / 'model'}")
    assert before == after and "model parameters" in before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("actors.samplers={min: 4, max: 2}", ("actors.samplers.max = 2", "raise max")),
        ("objective.mixture=[{strategy: nonsense, k: 1}]", ("objective.mixture.0.strategy = 'nonsense'", "pass_at_k")),
        ("objective.mixture=[{strategy: mean, k: 2}]", ("objective.mixture.0",)),
        ("objective.k=[&a 1, *a]", ("alias *a",)),
        ("objective.k=" + "[" * 20_000, ("not valid YAML",)),
        ("cluster.address=127.0.0.1:1", ("cluster.address = 127.0.0.1:1", "ray start --head")),
        ("cluster.address=ftp://x:1", ("cluster.address = 'ftp://x:1'", "HOST:PORT")),
        ("task={name: jsonl, jsonl: {test: nowhere.jsonl}}", ("task.jsonl.test", "nowhere.jsonl")),
        ("task={name: jsonl}", ("task.jsonl",)),
        ("rollout.max_prompt_tokens=3", ("rollout.max_prompt_tokens",)),
        ("learner.lora.targets=[q_prj]", ("learner.lora.targets: 'q_prj'", "did you mean q_proj?")),
        ("learner.lora.dropout=0.1", ("learner.lora.dropout = 0.1", "bonrl sft")),
    ],
)
def test_overrides_that_cannot_work(run, override: str, parts: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run("train", "--dry-run", *SMALL, override)
    assert status == 2 and "Traceback" not in err and "function-after" not in err and len(err) < 50_000
    for part in parts:
        assert part in err


def own_problems(tmp_path: Path, lines: list[str]) -> tuple[str, ...]:
    """Overrides of a dry run on a user's file."""
    (tmp_path / "own.jsonl").write_text("".join(line + "\n" for line in lines))
    files = f"task={{name: jsonl, instruction: '', jsonl: {{train: {tmp_path}/own.jsonl, test: {tmp_path}/own.jsonl}}}}"
    return (files, "evaluation.prompts=3", "evaluation.split=test", "rollout.max_prompt_tokens=8")


def test_prompts_that_are_too_long_are_refused_or_dropped_and_counted(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    short = [json.dumps({"problem": f"{i}+1", "answer": str(i + 1)}) for i in range(9)]
    long = json.dumps({"problem": "1+" * 60 + "1", "answer": "61"})
    overrides = own_problems(tmp_path, [long, *short])
    status, _, err = run("train", "--dry-run", *overrides)
    assert status == 2 and "1 of 10 prompts of the split 'train' are longer than rollout.max_prompt_tokens = 8" in err
    assert "the longest, 'train/1', with " in err and "task.drop_overlong=true" in err
    status, out, err = run("train", "--dry-run", *overrides, "task.drop_overlong=true")
    assert status == 0, err
    dropped = "1 dropped: longer than rollout.max_prompt_tokens = 8)"
    # 9 of 10: no evaluation reads the validation split
    for count, order in (("9 (train; from", "order by task.seed = 0; "), ("2 (test; from", "own.jsonl; ")):
        assert any(count in line and line.endswith(order + dropped) for line in out.splitlines()), out
    assert "WARNING: 3 of 3 evaluation prompts are also training prompts" in err
    assert any(line.startswith("contamination ") and "3 of 3 evaluation prompts" in line for line in out.splitlines())
    status, _, err = run("train", "--dry-run", *own_problems(tmp_path, [long, long]), "task.drop_overlong=true")
    assert status == 2 and "all 2 prompts of the split 'train' are longer than rollout.max_prompt_tokens = 8" in err


def test_a_run_drops_what_its_dry_run_counts(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"problem": problem, "answer": "2"}) for problem in ("1+1", "1+" * 60 + "1", "2+0")]
    (tmp_path / "own.jsonl").write_text("\n".join(rows))
    config = build_config(
        {
            "model": {"path": str(repository / "models" / "countdown-base")},
            "task": {
                **{"name": "jsonl", "instruction": "", "drop_overlong": True},
                "jsonl": {"test": str(tmp_path / "own.jsonl")},
            },
            "evaluation": {"prompts": 3, "split": "test"},
            "rollout": {"max_prompt_tokens": 8},
        }
    )
    assert [entry.prompt.id for entry in load_prompts(config, "evaluation")] == ["test/1", "test/3"]
    assert capsys.readouterr().out == (
        f"prompts: 2 (test; from {tmp_path / 'own.jsonl'}; 1 dropped: longer than rollout.max_prompt_tokens = 8)\n"
    )


def test_bad_lines_are_listed_and_counted(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run(
        "train", "--dry-run", *own_problems(tmp_path, ['{"problem": "1+1", "answer": "2"}', *["{"] * 25])
    )
    assert status == 2 and "Traceback" not in err
    assert "own.jsonl, line 21:" in err and "line 22:" not in err and "and 5 more bad lines" in err


def test_many_problems_are_shortened(run) -> None:  # type: ignore[no-untyped-def]
    terms = ", ".join(["{weight: -1}"] * 30)
    _, _, err = run("train", "--dry-run", f"objective.mixture=[{terms}]")
    assert len(err.splitlines()) == 21 and "and 10 more" in err


def test_layout_against_the_cluster() -> None:
    config = build_config({"sampler": {"gpus": 2, "tensor_parallel": 2}})
    assert "has 0" in " ".join(layout_problems(config, [{"CPU": 8}]))
    assert "no node" in " ".join(layout_problems(config, [{"CPU": 8, "GPU": 1}] * 2))
    assert not list(layout_problems(config, [{"CPU": 8, "GPU": 2}]))
    assert "CPUs" in " ".join(layout_problems(config, [{"CPU": 1, "GPU": 2}]))


def test_layout_against_a_cluster_of_node_types() -> None:
    config = configuration()
    head, gpu, cpu = {"CPU": 0}, {"CPU": 192, "GPU": 8, "bonrl-learner": 1, "bonrl-sampler": 1}, {"CPU": 32}
    assert not list(layout_problems(config, [head])), "the launcher adds the other nodes"
    assert not list(role_problems(config, [head])) and not list(
        role_problems(config, [head, gpu, {"bonrl-verifier": 1}])
    )
    (problem,) = role_problems(config, [head, gpu, cpu])
    assert "resource bonrl-verifier" in problem and "bonrl cluster render" in problem
    assert "GPUs" in " ".join(layout_problems(configuration("cluster.node_types.gpu.gpus=0"), [head]))


def test_addresses_and_sockets(tmp_path: Path) -> None:
    check_address("auto", "cluster.address")
    for address in ("127.0.0.1", "ray://127.0.0.1:1", "127.0.0.1:0", "127.0.0.1:x"):
        with pytest.raises(ConnectionError, match="RAY_ADDRESS"):
            check_address(address, "RAY_ADDRESS")
    assert "bytes too long" in (socket_problem({"TMPDIR": "/" + "x" * 95}) or "")
    assert "written" in (socket_problem({"TMPDIR": "/nowhere"}) or "")
    assert socket_problem({}) is None
