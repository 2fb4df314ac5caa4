"""Prompts as token ids: what is trained is what any user of the exported model sends."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoTokenizer

from cluster.checks.dry_run import warnings_of
from cluster.checks.prompts import (
    check_prompts,
    end_token_of,
    epoch_warnings,
    load_prompts,
    load_tokenizer,
    without_unused_validation,
)
from cluster.checks.recorded_prompts import with_fixed_date
from cluster.commands.export import export_model
from cluster.commands.imitation import _examples
from cluster.commands.printing import print_dry_run
from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from cluster.run.job import _checked_prompts
from learner.backends.model_directory import copy_companions
from tests.tokenizers_of_models import TURNS, byte_tokenizer
from verifiers.tasks.datasets import read_rows
from verifiers.tasks.registry import make_task

SHIPPED = Path(__file__).parents[3] / "models" / "countdown-base"
BOS, EOS = 1, 2


def config(model: Path, **task: object) -> RunConfig:
    return RunConfig.model_validate({"model": {"path": str(model)}, "task": {"train_size": 8, **task}})


def test_an_export_reads_a_prompt_as_it_was_trained(tmp_path: Path) -> None:
    """transformers and `vllm serve` encode a text with the special tokens that the tokenizer itself adds."""
    copy_companions(SHIPPED, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    prompts = load_prompts(config(SHIPPED), "train")
    assert len(prompts) == 8
    for prompt in prompts:
        ids = prompt.tokens.tolist()
        assert ids == tokenizer(prompt.prompt.text).input_ids
        assert ids[0] == BOS and BOS not in ids[1:], "the shipped model was trained with one BOS before the prompt"


NO_EVALUATION = {"every": 0, "at_start": False, "at_end": False}


def own(directory: Path, lines: int, evaluation: dict[str, Any], **task: Any) -> RunConfig:
    """A run on a file of `lines` problems, and a test file of 3."""
    for name, count in (("train", lines), ("test", 3)):
        rows = [json.dumps({"problem": f"{number} + {count}", "answer": "1"}) for number in range(count)]
        (directory / f"{name}.jsonl").write_text("\n".join(rows))
    files = {name: str(directory / f"{name}.jsonl") for name in ("train", "test")}
    task = {"name": "jsonl", "instruction": "", "jsonl": files, **task}
    return RunConfig.model_validate(
        {
            "model": {"path": str(SHIPPED)},
            "task": task,
            "evaluation": evaluation,
            "rollout": {"max_prompt_tokens": 24, "max_response_tokens": 24},
        }
    )


@pytest.mark.parametrize("lines", [1, 4, 60, 900])
@pytest.mark.parametrize(
    ("evaluation", "used"),
    [
        (NO_EVALUATION, ""),
        (NO_EVALUATION | {"split": "test"}, ""),
        ({"split": "test"}, "3 (test"),
        ({"split": "train"}, "{} (train, for evaluation"),
    ],
)
def test_a_split_that_no_evaluation_reads_holds_nothing_out(
    tmp_path: Path, lines: int, evaluation: dict[str, Any], used: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = without_unused_validation(own(tmp_path, lines, evaluation))
    assert len(load_prompts(settings, "train")) == lines
    order = f"from {tmp_path / 'train.jsonl'}; order by task.seed = 0)"
    assert capsys.readouterr().out == f"prompts: {lines} (train; {order}\n"
    others = ("passes", "contamination")
    counts, *evaluated = (line for line in check_prompts(settings)[0] if not line.startswith(others))
    assert counts == f"{lines} (train; {order}"
    assert [line.partition(";")[0] for line in evaluated] == ([used.format(min(lines, 256))] if used else [])
    again = RunConfig.model_validate(settings.to_mapping())  # as config.yaml holds it, so that a resume reads the same
    assert len(load_prompts(again, "train")) == lines
    measured = again.model_copy(update={"evaluation": again.evaluation.model_copy(update={"split": "validation"})})
    with pytest.raises(UsageError, match=r"task\.validation_size is 0: every problem is trained on"):
        load_prompts(measured, "evaluation")


@pytest.mark.parametrize(("lines", "held_out"), [(4, 1), (60, 6), (900, 90)])
def test_the_share_that_is_held_out_is_printed(tmp_path: Path, lines: int, held_out: int) -> None:
    settings = own(tmp_path, lines, {"prompts": 50})
    assert without_unused_validation(settings) is settings
    (*counts, passes, repeated), _ = check_prompts(settings)
    used = min(held_out, 50)
    file = tmp_path / "train.jsonl"
    assert counts == [
        f"{lines - held_out} (train; from {file}; {held_out} held out for validation; order by task.seed = 0)",
        f"{used} (validation; held out of {file} by a hash of the id)",
    ]
    times = settings.run.steps * settings.rollout.prompts_per_step / (lines - held_out)
    assert passes == f"passes: {times:.3g} over {lines - held_out} training prompts in {settings.run.steps} steps"
    assert repeated.startswith(f"contamination: 0 of {used} evaluation prompts are also training prompts")


@pytest.mark.parametrize("read", [check_prompts, lambda config: _checked_prompts(config, load_tokenizer(SHIPPED))])
def test_a_start_reads_the_file_of_the_problems_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[RunConfig], object]
) -> None:
    files = []

    def counted(paths: list[Path], *arguments: Any, **options: Any) -> Any:
        files.extend(path.name for path in paths)
        return read_rows(paths, *arguments, **options)

    monkeypatch.setattr("verifiers.tasks.jsonl.read_rows", counted)
    read(own(tmp_path, 40, {"split": "validation", "prompts": 4}))
    assert files == ["train.jsonl"], "training and validation problems are both in it"


@pytest.mark.parametrize(
    ("split", "remedy"),
    [("validation", "return prompts for that split, or set evaluation.split to one that has some"), ("train", "split")],
)
def test_a_split_without_prompts_of_an_own_task_has_a_remedy_that_helps(
    tmp_path: Path, split: str, remedy: str
) -> None:
    file = tmp_path / "my_task.py"
    file.write_text(
        "import bonrl\n\nclass Mine:\n    def prompts(self, split):\n"
        f"        return [] if split == {split!r} else [bonrl.Prompt('p', '1+1', {{'answer': '2'}})]\n\n"
        "    def verify(self, prompt, response):\n        return True\n"
    )
    own_task = build_config({"task": {"name": f"{file}:Mine"}, "evaluation": {"prompts": 2}})
    with pytest.raises(UsageError, match=rf"prompts\('{split}'\) gave none; .*{remedy}$"):
        check_prompts(own_task, render=False)


def test_what_is_asked_to_be_held_out_stays_so(tmp_path: Path) -> None:
    asked = own(tmp_path, 60, NO_EVALUATION | {"prompts": 20}, validation_size=20)
    assert without_unused_validation(asked) is asked and len(load_prompts(asked, "train")) == 40
    countdown = RunConfig.model_validate({"evaluation": NO_EVALUATION})
    assert without_unused_validation(countdown) is countdown
    for task in ("countdown", "mbpp", "humaneval"):
        with pytest.raises(ValueError, match=rf"task\.validation_size = 0: task {task} holds no problems out"):
            RunConfig.model_validate({"task": {"name": task, "validation_size": 0}})
    with pytest.raises(ValueError, match=r"task\.validation_size = 0 leaves no problem for evaluation\.split"):
        own(tmp_path, 60, {"every": 10}, validation_size=0)


def test_a_dry_run_counts_as_the_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = own(tmp_path, 60, NO_EVALUATION)
    print_dry_run(settings)
    out = capsys.readouterr().out
    assert "prompts" in out and "60 (train; from" in out and "validation_size: 0" in out
    print_dry_run(settings, list)  # a resumed run without recorded changes keeps its settings
    out = capsys.readouterr().out
    assert "54 (train; from" in out and "6 held out for validation" in out
    assert out.splitlines()[-1].startswith("dry run: no errors")


def test_an_allocation_without_a_second_epoch_is_warned_about() -> None:
    keys: dict[str, Any] = {"run": {"steps": 4}, "rollout": {"prompts_per_step": 10, "allocation": {"candidates": 2}}}
    [warning] = epoch_warnings(build_config(keys), 80)
    assert "4 steps read 80 of 80 training prompts" in warning and "raise run.steps" in warning
    assert not epoch_warnings(build_config(keys), 79)
    assert not epoch_warnings(build_config({"run": {"steps": 4}}), 1000)


def test_imitation_puts_bos_before_the_prompt_alone() -> None:
    settings = config(SHIPPED)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    for example in islice(_examples(settings, make_task(settings.task), SHIPPED, print), 4):
        ids = [*example.prompt_tokens, *example.response_tokens]
        assert ids[0] == BOS and ids.count(BOS) == 1 and ids[-1] == EOS and ids.count(EOS) == 1
        assert tokenizer.decode(example.response_tokens[:-1]) and tokenizer.decode(example.prompt_tokens).endswith(":")


def imitating(directory: Path, rows: list[dict[str, Any]], **task: Any) -> RunConfig:
    """A run on rows with the field `solution`."""
    file = directory / "train.jsonl"
    file.write_text("\n".join(json.dumps({"problem": f"{n}+1", "answer": str(n + 1), **r}) for n, r in enumerate(rows)))
    files = {"train": str(file), "solution": "solution"} | task.pop("jsonl", {})
    return RunConfig.model_validate(
        {
            "model": {"path": str(SHIPPED)},
            "task": {"name": "jsonl", "instruction": "", "validation_size": 0, "jsonl": files, **task},
            "evaluation": NO_EVALUATION,
            "objective": {"imitation": "sft"},
            "rollout": {"max_prompt_tokens": 24, "max_response_tokens": 12},
        }
    )


RIGHT = [{"solution": f"({n}+1)={n + 1}"} for n in range(8)]  # the signs that the shipped tokenizer knows


def test_demonstrations_of_own_rows_are_imitated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = imitating(tmp_path, [*RIGHT, {"solution": None}, {"solution": "(1+1)=0"}])
    sources = load_prompts(settings, "train")
    out = capsys.readouterr().out
    assert "prompts: 10 (train" in out and "demonstrations: 9 (1 problems have none; the verifier judges 1 of 9" in out
    assert len(sources) == 9
    assert check_prompts(settings)[0][1].startswith(
        "demonstrations: 9 (1 problems have none; the verifier judges 1 of 9"
    )
    tokenizer = load_tokenizer(str(SHIPPED))
    for source in sources:
        assert source.demonstration is not None and source.demonstration[-1] == EOS
        assert tokenizer.decode(source.demonstration[:-1]) == source.prompt.demonstration
    lines: list[str] = []
    stream = _examples(settings, make_task(settings.task), SHIPPED, lines.append)
    epochs = [[tuple(one.prompt_tokens) for one in islice(stream, 9)] for _ in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [9] * 3 and epochs[0] != epochs[1]
    assert lines[1].startswith("demonstrations: 9 (")


def test_wrong_and_long_demonstrations_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*RIGHT, {"solution": "(1+1)=0"}, {"solution": "2 " * 20}]
    with pytest.raises(UsageError, match=r"1 of 10 demonstrations .* 'train/10', .*task\.drop_overlong=true"):
        load_prompts(imitating(tmp_path, rows), "train")
    settings = imitating(tmp_path, rows, drop_overlong=True, drop_wrong_solutions=True)
    assert len(load_prompts(settings, "train")) == 8
    out = capsys.readouterr().out
    assert "demonstrations: 8 (1 dropped: longer than rollout.max_response_tokens = 12; 1 dropped: the verifier" in out
    assert "the first is train/9" in out
    with pytest.raises(UsageError, match=r"task\.drop_wrong_solutions = true leaves no demonstration"):
        load_prompts(imitating(tmp_path, [{"solution": "(1+1)=0"}], drop_wrong_solutions=True), "train")
    with pytest.raises(UsageError, match=r"no demonstrations to imitate: set task\.jsonl\.solution"):
        load_prompts(imitating(tmp_path, RIGHT, jsonl={"solution": None}), "train")
    with pytest.raises(UsageError, match=r"to imitate: no row has a solution in the field 'solutoin'; set task\.jsonl"):
        load_prompts(imitating(tmp_path, RIGHT, jsonl={"solution": "solutoin"}), "train")


def test_demonstrations_on_which_a_reward_fails_are_not_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "judge.py"
    code.write_text("def score(response, answer):\n    assert answer != '3'\n    return True\n")
    settings = imitating(tmp_path, RIGHT, reward=f"{code}:score", drop_wrong_solutions=True)
    assert len(load_prompts(settings, "train")) == 8
    out = capsys.readouterr().out
    assert "judges 0 of 8" in out and "failed on 1, which are kept; the first is train/3" in out and "line 2" in out
    code.write_text("def score(response):\n    raise OSError('no model')\n")
    with pytest.raises(UsageError, match=r"fails on every demonstration.*judge\.py, line 2: OSError: no model"):
        load_prompts(settings, "train")
    with pytest.raises(UsageError, match="there is no 'nothing'"):
        load_prompts(imitating(tmp_path, RIGHT, reward=f"{code}:nothing"), "train")


def test_rows_without_answers_can_be_imitated_only(tmp_path: Path) -> None:
    settings = imitating(tmp_path, RIGHT, jsonl={"answer": None})
    with pytest.raises(UsageError, match=r"task\.jsonl\.answer = null: .*`bonrl sft`"):
        load_prompts(settings, "train")
    lines: list[str] = []
    assert next(_examples(settings, make_task(settings.task), SHIPPED, lines.append)).response_tokens[-1] == EOS
    assert lines[1] == "demonstrations: 8"
    odd = imitating(tmp_path, [*RIGHT, {"solution": "#### 9"}])
    _examples(odd, make_task(odd.task), SHIPPED, lines.append)
    assert "1 with characters that the tokenizer does not know (<unk>)" in lines[-1]


def test_skipped_lines_and_duplicates_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = own(tmp_path, 6, {"split": "test"}, validation_size=0)
    file = tmp_path / "train.jsonl"
    file.write_text(file.read_text() + '\n{\n{"problem": "0 +  6", "answer": "2"}\n')
    with pytest.raises(UsageError, match=r"line 7: not valid JSON[^\n]*\ntask\.jsonl\.skip_bad=true leaves out"):
        load_prompts(settings, "train")
    skipping = settings.task.jsonl.model_copy(update={"skip_bad": True})
    settings = settings.model_copy(update={"task": settings.task.model_copy(update={"jsonl": skipping})})
    assert len(load_prompts(settings, "train")) == 7
    out = capsys.readouterr().out
    assert "7 (train; from" in out and "1 bad lines skipped" in out and "line 7: not valid JSON" in out
    assert "1 of 7 problems repeat the text of an earlier one, 1 of them with another answer" in out
    _, doubtful = check_prompts(settings)
    assert len([line for line in doubtful if "skipped" in line or "repeat" in line]) == 2


def test_a_model_without_an_end_token_or_with_an_unused_chat_template_is_warned_about(tmp_path: Path) -> None:
    copy_companions(SHIPPED, tmp_path)
    (tmp_path / "config.json").write_text((SHIPPED / "config.json").read_text())
    assert not warnings_of(config(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert ["task.template=chat" in warning for warning in warnings_of(config(tmp_path))] == [True]
    assert not warnings_of(config(tmp_path, template="chat"))
    for name, key in (
        ("config", "eos_token_id"),
        ("generation_config", "eos_token_id"),
        ("tokenizer_config", "eos_token"),
    ):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))
    (warning,) = warnings_of(config(tmp_path, template="chat"))
    assert "end token" in warning and "generation_config.json" in warning


def test_a_prompt_token_outside_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    copy_companions(SHIPPED, tmp_path)
    settings = json.loads((SHIPPED / "config.json").read_text()) | {"vocab_size": 12}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"model\.path = .*vocabulary has 12 tokens"):
        load_prompts(config(tmp_path), "train")


def chat_model(directory: Path, template: str) -> Path:
    copy_companions(SHIPPED, directory)
    (directory / "config.json").write_text((SHIPPED / "config.json").read_text())
    (directory / "chat_template.jinja").write_text(template)
    return directory


def test_the_date_of_a_run_is_fixed_where_its_chat_template_asks_for_it(tmp_path: Path) -> None:
    model = chat_model(tmp_path, "{{ strftime_now('%Y') }}={{ messages[0].content }}")
    settings = config(model, template="chat")
    assert with_fixed_date(config(SHIPPED)).task.date is None
    today = with_fixed_date(settings)
    assert today.task.date is not None and abs(today.task.date - dt.date.today()) < dt.timedelta(days=2)
    again = RunConfig.model_validate(today.to_mapping())  # as config.yaml holds it
    assert again.task.date == today.task.date and with_fixed_date(again, resumed=True) is again
    with pytest.raises(UsageError, match=r"did not record its date; set task\.date=YYYY-MM-DD"):
        with_fixed_date(settings, resumed=True)
    then = config(model, template="chat", date="1999-12-31")
    text = load_tokenizer(str(model)).decode(load_prompts(then, "train")[0].tokens)
    assert text.startswith("1999=")
    chat_model(tmp_path, "{{ messages[0].content }}")
    assert with_fixed_date(settings, resumed=True).task.date is None


@pytest.mark.parametrize(
    ("template", "remedy"),
    [
        ("", "no chat template; set task.template=plain"),
        ("{{ raise_exception('system first') if messages[0].role != 'system' }}{{ messages[1].content }}", "."),
        ("{{ messages[0].content[:2] }}", "the output misses their text"),
    ],
)
def test_a_chat_template_that_cannot_render_is_refused_before_the_start(
    tmp_path: Path, template: str, remedy: str
) -> None:
    with pytest.raises(UsageError, match=rf"task\.template is 'chat'.*{remedy}"):
        load_prompts(config(chat_model(tmp_path, template), template="chat"), "train")


@pytest.mark.parametrize("key", [{"system_prompt": "Be brief."}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_keys_of_chat_templates_are_refused_without_one(key: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"task\.{next(iter(key))} has no effect with task\.template=plain"):
        config(SHIPPED, **key)


def test_names_that_rendering_itself_gives_to_templates_are_refused() -> None:
    for name in ("messages", "tokenize", "not a name"):
        with pytest.raises(ValueError, match="cannot"):
            config(SHIPPED, template="chat", chat_template_kwargs={name: 1})


def test_imitation_ends_a_response_as_its_model_does(tmp_path: Path) -> None:
    settings, tokenizer = config(SHIPPED), byte_tokenizer()
    assert end_token_of(settings, load_tokenizer(str(SHIPPED))) == EOS
    tokenizer.chat_template = TURNS
    tokenizer.save_pretrained(tmp_path)
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_token_of(config(tmp_path), tokenizer) == tokenizer.eos_token_id
    assert end_token_of(config(tmp_path, template="chat"), tokenizer) == turn_end
    endless = byte_tokenizer(eos_token=None)
    (tmp_path / "empty").mkdir()
    endless.save_pretrained(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"names an end token.*set eos_token_id in generation_config\.json"):
        end_token_of(config(tmp_path / "empty"), endless)


def test_an_export_of_an_earlier_release_gets_the_begin_token_of_its_run(tmp_path: Path) -> None:
    """That release put BOS before every plain prompt, and copied a tokenizer that did not."""
    run, model = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-000001" / "huggingface"
    model.mkdir(parents=True)
    copy_companions(SHIPPED, model)
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (model / file).write_bytes((SHIPPED / file).read_bytes())
    earlier = json.loads((model / "tokenizer.json").read_text()) | {"post_processor": None}
    (model / "tokenizer.json").write_text(json.dumps(earlier))
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(SHIPPED)}}))
    assert AutoTokenizer.from_pretrained(model)("1+2").input_ids[:1] != [BOS]
    prompts = load_prompts(config(SHIPPED), "train")
    (run / "groups").mkdir()
    pq.write_table(
        pa.table({"prompt_tokens": [p.tokens.tolist() for p in prompts]}), run / "groups" / "step-000001.parquet"
    )
    export_model(run, model, tmp_path / "out")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [exported(p.prompt.text).input_ids for p in prompts] == [p.tokens.tolist() for p in prompts]
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "out").iterdir()} == {0o644}
