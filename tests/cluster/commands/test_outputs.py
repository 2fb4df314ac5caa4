"""What commands leave behind when what they write or read cannot be used."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml

from cluster import cli
from cluster.commands import evaluate, sft
from cluster.commands.compare import _table
from cluster.commands.imitation import SETTINGS_FILE, partial_directory, resume
from cluster.commands.options import load_earlier
from cluster.commands.printing import print_curves, write_json
from cluster.config import build_config
from cluster.errors import UsageError
from cluster.evaluation.summary import summarize
from cluster.results.comparison import compare
from tests.cluster.results.recorded import evaluation_groups, make_run


def stands_for_job(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    monkeypatch.setitem(sys.modules, "cluster.run.job", SimpleNamespace(**functions))  # the real one imports Ray


@pytest.mark.parametrize("wrote", [False, True])
def test_an_evaluation_that_is_refused_leaves_no_empty_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: bool
) -> None:
    def refuse(config: Any, model: str, *, output: Path, **_: Any) -> None:
        if wrote:
            (output / "groups-temperature-1.parquet").write_bytes(b"PAR1")
        raise UsageError("prompt 'p3' has 90 tokens")

    stands_for_job(monkeypatch, evaluate_checkpoint=refuse)
    output = tmp_path / "results" / "base"
    with pytest.raises(UsageError, match="90 tokens"):
        evaluate._measure(build_config({}), "model", [1.0], baseline=None, output=output)
    assert output.exists() == wrote, "the same command can be given again, and nothing is lost"


def test_an_evaluation_that_cannot_be_written_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        evaluate._write(tmp_path / "gone", "{}")
    assert ended.value.exit_code == 1
    assert "evaluation.json cannot be written: No such file" in capsys.readouterr().err


def test_bon_sft_names_the_model_that_it_cannot_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tmp_path / "run" / "huggingface", tmp_path / "model"
    model.mkdir(parents=True)
    stands_for_job(monkeypatch, train=lambda config: SimpleNamespace(model=model, status=0))
    monkeypatch.setattr(sft, "load", lambda *_: None)
    monkeypatch.setattr(sft, "check_start", lambda config: output.write_text("made meanwhile"))
    with pytest.raises(typer.Exit) as ended:
        sft._bon_sft(output, [], None, False, 1, 1, 1e-3)
    assert ended.value.exit_code == 1
    assert f"cannot be written: [Errno 17] File exists: '{output}'; the model is {model}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[", '{"steps": 0}', '{"unknown": 1}'])
def test_settings_of_an_imitation_that_cannot_be_read_are_refused(tmp_path: Path, content: str) -> None:
    output = tmp_path / "model"
    run = partial_directory(output) / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(build_config({}).to_mapping()))
    (run / SETTINGS_FILE).write_text(content)
    with pytest.raises(UsageError, match=r"imitation\.json is damaged, or of another release .*start again without"):
        resume(output, [], print)


def test_levels_and_names_of_runs_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are the markup of rich; `[/b]` alone would end the command with its error."""
    groups = [replace(one, level=f"[{'/' * (i % 2)}b]") for i, one in enumerate(evaluation_groups(0.5, seed=0))]
    print_curves([summarize(groups, 0, groups[0].sampling, 1.0)])
    shown = capsys.readouterr().out
    assert "[b]" in shown and "[/b]" in shown
    runs = [make_run(tmp_path, "a"), make_run(tmp_path, "b", {"objective": {"k": 1}})]
    renamed = [run.rename(run.with_name(f"{run.name}[b]")) for run in runs]
    found = compare(renamed, best=True)
    title = str(_table(found, next(m for m in found.moments if m.at == "best"), 1).title)
    assert "a\\[b]" in title and "b\\[b]" in title


def test_text_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    cli._escape_what_cannot_be_printed()
    print("größer 数学")
    write_json({"answer": "数学 😀"}, "-")
    terminal.flush()
    line, _, content = terminal.buffer.getvalue().decode("latin-1").partition("\n")  # type: ignore[attr-defined]
    assert line == "größer \\u6570\\u5b66" and json.loads(content) == {"answer": "数学 😀"}


def test_a_checkpoint_in_place_of_its_run_is_refused_with_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "run")
    with pytest.raises(UsageError, match=rf"not a run directory; it is a part of {run.resolve()}: give that"):
        load_earlier("--resume", run / "checkpoints" / "step-000002", [])
    with pytest.raises(UsageError, match="not a run directory; give one like runs/NAME"):
        load_earlier("--resume", tmp_path / "other", [])
