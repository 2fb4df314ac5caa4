"""`bonrl compare` and `bonrl samples` as a user runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.commands.compare import _valued
from cluster.commands.samples import _signed
from cluster.results.comparison import Value
from tests.cluster.results.recorded import group, make_run, write
from tests.cluster.run.test_replay import QUARANTINED
from tests.cluster.test_cli import run  # noqa: F401

MEAN = {"objective": {"strategy": "mean", "k": 1}}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return make_run(tmp_path, "a"), make_run(tmp_path, "b", MEAN, rates={0: 0.2, 2: 0.9})


def test_compare_prints_tables(run, two: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    status, out, err = run("compare", *two, "--best")
    assert (status, err) == (0, "")
    assert "A  objective.strategy=pass_at_k, objective.k=2 (baseline): runs a" in out
    assert "last evaluation (step 2): 12 prompts" in out and "pass@2 (objective of A)" in out
    assert "bootstrap over prompts, paired" in out and "best evaluation, chosen on the other half" in out
    assert "pass@2, B - A" in out and "+0.000, no difference" in out


def test_runs_of_different_lengths_are_also_compared_at_their_only_common_step(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    longer = make_run(tmp_path, "a", rates={1: 0.2, 2: 0.6})
    status, out, err = run("compare", longer, make_run(tmp_path, "b", MEAN, rates={1: 0.9}))
    assert (status, err) == (0, "warning: the last evaluations are of different steps: a 2, b 1\n")
    assert "last evaluation of each run" in out and "by step" in out
    equal = make_run(tmp_path, "c", rates={2: 0.6}), make_run(tmp_path, "d", MEAN, rates={2: 0.9})
    assert "by step" not in run("compare", *equal)[1], "it is the table above"


@pytest.mark.parametrize(("value", "text"), [(0.5, "+0.500"), (-0.0, "+0.000"), (-1.24e-5, "-1.2e-05")])
def test_a_small_advantage_is_not_shown_as_zero(value: float, text: str) -> None:
    assert _signed(value) == text


def test_a_t_interval_without_width_is_not_shown() -> None:
    assert _valued(Value(1.0, 1.0, 1.0, {"a": 1.0, "b": 1.0})) == "1.000, all seeds"
    assert _valued(Value(0.5, 0.4, 0.6, {"a": 0.5})) == "0.500 \\[0.400, 0.600]"


def test_compare_gives_scripts_json_alone(run, two: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    figure = two[0].parent / "figure.svg"
    status, out, err = run("compare", *two, "--json", "-", "--figure", figure)
    found = json.loads(out)
    assert status == 0 and err == f"wrote {figure}\n" and figure.is_file()
    assert found["format"] == 1 and found["groups"][1]["keys"] == {"objective.strategy": "mean", "objective.k": 1}
    [change] = [
        d for d in found["moments"][0]["differences"] if d["metric"] == "eval/pass@2" and d["method"] == "prompts"
    ]
    assert change["low"] < change["value"] < change["high"] and change["method"] in found["methods"]
    page = Path("docs/compare.md").read_text(encoding="utf-8")
    names = {*found, *found["groups"][0], *found["moments"][0], *change, *found["moments"][0]["values"][0]}
    assert not [name for name in names if f"`{name}`" not in page], "every key is documented"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["compare", "{a}"], "give at least two runs"),
        (["compare", "{a}", "nowhere"], "nowhere does not exist"),
        (["compare", "{a}", "{b}", "--figure", "x.gif"], "must end with one of"),
        (["compare", "{a}", "{b}", "--json", "/nowhere/x"], "--json /nowhere/x: cannot be written"),
        (["samples", "{a}", "--step", "7"], "recorded: 1-2"),
        (["samples", "{a}", "--prompt", "t3"], "not among the 2 prompts of this step; there are ['t2'"),
    ],
)
def test_refusals(run, two: tuple[Path, Path], arguments: list[str], part: str) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    status, _, err = run(*(argument.format(a=two[0], b=two[1]) for argument in arguments))
    assert status == 2 and part in err


def test_samples_are_readable(run, two: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    status, out, _ = run("samples", two[0])
    assert status == 0 and out.startswith("t2  (hard)\n  problem t2\n")
    assert "#0 correct  reward 1  score 1  advantage +0.500  3 tokens\n     t2 answer 0\n" in out
    assert "6 tokens, truncated" in out and f"2 of 2 prompts of step 2 of {two[0]}" in out
    status, out, _ = run("samples", two[0], "--evaluation", "--step", "0", "--only", "right", "--n", "1", "--full")
    assert status == 0 and "wrong" not in out and "advantage" not in out
    assert "prompts with right answers of the evaluation after step 0" in out


def test_samples_say_how_to_see_the_other_prompts(run, two: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    for arguments, end in (
        (["--n", "1"], f"1 of 2 prompts of step 2 of {two[0]}; --n 2 shows all\n"),
        ([], f"{two[0]}\n"),
    ):
        status, out, _ = run("samples", two[0], *arguments)
        assert status == 0 and out.endswith(end)


def test_samples_are_filtered(run, two: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    def answers(*arguments: str) -> list[tuple[str, int]]:
        status, out, _ = run("samples", two[0], "--json", "-", *arguments)
        assert status == 0
        return [(g["prompt_id"], s["index"]) for g in json.loads(out)["groups"] for s in g["samples"]]

    assert answers("--only", "right") == [("t2", 0), ("u", 0), ("u", 1)]
    assert answers("--only", "wrong", "--prompt", "t2") == [("t2", 1), ("t2", 2), ("t2", 3)]
    assert answers("--only", "truncated", "--n", "1") == [("t2", 3)]
    assert answers("--only", "failed") == []


def test_samples_of_an_evaluation_alone(run, two: tuple[Path, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    output = tmp_path / "base-on-test"
    output.mkdir()
    (output / "evaluation.json").write_text(json.dumps({"model": "m", "evaluations": [{"temperature": 1.0}]}))
    write(output / "groups-temperature-1.parquet", [group("t2", [1, 0]), group("t1", [0, 0])])
    status, out, _ = run("samples", output, "--only", "right")
    assert status == 0 and out.startswith("t2")
    assert f"1 of 1 prompts with right answers of the evaluation of {output}" in out
    for arguments, part in (((output, "--step", "1"), "has no steps"), ((two[0], "-t", "1"), "for a run use --step")):
        status, _, err = run("samples", *arguments)
        assert status == 2 and part in err


def test_texts_of_a_model_do_not_drive_the_terminal(run, two: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    hostile = replace(group("h", [1, 0]), response_text=["\x1b[2J\x07[red]x[/red]\u202e", "a" * 5000])
    write(two[0] / "groups" / "step-000003.parquet", [hostile, QUARANTINED])
    _, out, _ = run("samples", two[0], "--step", "3")
    assert "\x1b" not in out and "\\x1b[2J\\x07[red]x[/red]\\u202e" in out
    assert "[... 4,400 characters; --full shows them ...]" in out.replace("\n     ", "") and "quarantined" in out
    _, out, _ = run("samples", two[0], "--step", "3", "--full")
    assert out.count("a") > 5000
