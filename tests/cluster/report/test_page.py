"""The page of a run: what it says, that it needs no network, and that text of models stays text."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.queue.group_log import groups_file
from cluster.cli import main
from cluster.report import groups as browser_of_groups
from cluster.report.files import commands
from cluster.report.headline import status
from cluster.report.live import _host_of
from cluster.report.page import build, render
from cluster.report.series import duration, running_mean
from cluster.report.source import Source
from cluster.results import ResultsError
from tests.cluster.report.recorded_runs import FORMULA, HOSTILE, make_run
from tests.cluster.results.recorded import N, group, write

MIXTURE = {"weight": 0.7, "mixture": [{"strategy": "mean", "k": 1, "weight": 0.3}]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return render(build(run, groups=20))


def unpacked(page: str, name: str) -> str:
    """What a script element of the page holds, compressed."""
    found = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1])).decode()


def text_of(page: str) -> str:
    """The readable part: without scripts, styles and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_top_says_what_was_reached(page: str) -> None:
    text = text_of(page)
    assert "countdown-base on Countdown, trained for pass@2" in text
    assert "finished" in text and "12 of 12" in text
    assert re.search(r"pass@2 on held-out prompts went from 0\.\d{3} to 0\.\d{3} in 12 steps", text)
    assert re.search(r"paired difference is [+−]0\.\d{3} \[[+−]0\.\d{3}, [+−]0\.\d{3}\]", text)
    for row in ("base model", "best, step 6", "last, step 12"):
        assert row in text
    assert "1 warning" in text and "1 incident" in text and "served again after 4.2 s" in text


def test_it_loads_nothing_from_the_network(page: str) -> None:
    assert "connect-src 'none'" in page and "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["'](?!#|data:,)[^"']*""", page)
    code = re.findall(r"<(style|script nonce=\S+)>(.*?)</", page, flags=re.DOTALL)
    assert len(code) == 4
    assert not re.findall(
        r"https?://|@import|url\(|import\(|XMLHttpRequest|WebSocket", " ".join(text for _, text in code)
    )


def test_every_script_has_the_nonce_that_the_policy_names(page: str) -> None:
    nonce = re.search(r"script-src 'nonce-(\w+)'", page)
    scripts = re.findall(r"<script\b([^>]*)>", page)
    assert nonce is not None
    assert [s for s in scripts if "text/plain" not in s] == [f' nonce="{nonce[1]}"'] * 3


def test_text_of_models_is_never_html(page: str) -> None:
    assert HOSTILE not in page
    assert page.count("<script") == 5 and page.count("</script>") == 5
    assert page.count("<img") == 0
    answers = [s["text"] for group in json.loads(unpacked(page, "data"))["groups"] for s in group["samples"]]
    assert HOSTILE in answers and FORMULA in answers  # unchanged where the page reads them


def test_plotly_is_in_the_file_once(page: str) -> None:
    assert "Plotly, Inc." in unpacked(page, "plotly")[:500]
    assert len(page) < 2_500_000


def test_the_same_run_gives_the_same_page(run: Path, page: str) -> None:
    assert render(build(run, groups=20)) == page
    assert render(build(run, groups=20, seed=1)) != page


def test_groups_have_samples_with_advantages(run: Path) -> None:
    report = build(run, groups=20)
    shown = report.data["groups"]
    assert len(shown) == 20 and report.view["groups"]["recorded"] == 8 * 2 + 3 * 12
    training = [group for group in shown if group["kind"] == "training" and group["right"] == 1]
    right, wrong = training[0]["samples"][0], training[0]["samples"][1]
    # pass@2 of 1 right sample in 4 by `loo`: U_2 of the group minus U_2 without the sample.
    assert right["advantage"] == pytest.approx(1 / 2 - 0, abs=1e-4)
    assert wrong["advantage"] == pytest.approx(1 / 2 - 2 / 3, abs=1e-4)
    assert training[0]["samples"][3]["truncated"] and not right["truncated"]


def test_evaluations_show_the_same_prompts(run: Path) -> None:
    held_out = [one for one in build(run, groups=18).data["groups"] if one["kind"] == "evaluation"]
    steps: dict[str, list[int]] = {}
    for one in held_out:
        steps.setdefault(one["prompt_id"], []).append(one["step"])
    assert len(steps) == 3 and all(found == [0, 6, 12] for found in steps.values())


def test_no_group_is_shown_where_none_is_asked_for(run: Path) -> None:
    report = build(run, groups=0)
    assert report.data["groups"] == []
    assert "--groups is 0" in render(report)


def test_the_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(tmp_path, steps=4, texts=("x" * 100_000, "y"), rates={})
    sample = build(path, groups=2).data["groups"][0]["samples"][0]
    assert len(sample["text"]) < 3100 and "97,000 characters left out" in sample["text"]
    monkeypatch.setattr(browser_of_groups, "MAX_CHARACTERS", 5000)
    assert 1 <= len(build(path, groups=8).data["groups"]) < 8


def test_long_runs_are_thinned(tmp_path: Path) -> None:
    report = build(make_run(tmp_path, steps=1500, rates={}, groups=False), groups=10)
    line = next(chart for chart in report.data["learning"] if chart["id"] == "reward")["lines"][0]
    assert len(line["y"]) == len(report.data["axes"]["train"]["step"]) == 600
    assert report.data["axes"]["train"]["samples"][-1] == pytest.approx(1500 * 8, rel=0.01)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"rates": {}}, "no evaluation on held-out prompts"),
        ({"rates": {0: 0.2}}, "for the base model, before training"),
        ({"rates": {12: 0.5}}, "the base model was not evaluated"),
        ({"groups": False, "rates": {}}, "has recorded no group yet"),
        ({"steps": 0, "rates": {}, "finished": False}, "has recorded no step yet"),
        ({"steps": 1}, "in 1 step."),
        ({"replay": True, "rates": {}}, "has no timed step"),
        ({"recorded_only": True, "rates": {}}, "nothing was trained"),
        ({"finished": False, "planned": 20}, "12 of 20 steps"),
        ({"changes": {"objective": {"imitation": "bon_sft"}}, "groups": False}, "imitating demonstrations (bon_sft)"),
        ({"changes": {"objective": {"strategy": "best_of_k"}}}, "trained for Best-of-2"),
        ({"changes": {"objective": MIXTURE}}, "trained for 0.7 pass@2 + 0.3 mean reward"),
    ],
)  # fmt: skip
def test_runs_of_all_shapes_have_a_page(tmp_path: Path, shape: dict[str, Any], says: str) -> None:
    report = build(make_run(tmp_path, **shape), groups=10)
    assert says in text_of(render(report))
    assert bool(report.data["groups"]) == bool(report.view["groups"]["files"])


@pytest.mark.parametrize(
    ("files", "offered", "state"),
    [
        ([], [], "12 of 20 steps"),
        (["huggingface/config.json"], ["bonrl export", "bonrl eval"], "12 of 20 steps"),  # of a replay
        (["queue.arrow"], ["bonrl train --resume"], "12 of 20 steps; it can be resumed"),  # of --rollout-only
    ],
)
def test_only_commands_that_the_checkpoints_allow_are_offered(
    tmp_path: Path, files: list[str], offered: list[str], state: str
) -> None:
    path = make_run(tmp_path, finished=False, planned=20, groups=False, rates={})
    for name in files:
        file = path / "checkpoints" / "step-000012" / name
        file.parent.mkdir(parents=True)
        file.touch()
    source = Source.read(path)
    lines = [one["line"] for one in commands(source)][:-2]  # the last two need no checkpoint
    assert [line.startswith(command) for line, command in zip(lines, offered, strict=True)] == [True] * len(lines)
    assert status(source)["text"] == state


def test_a_run_that_is_written_is_read_up_to_its_last_whole_record(tmp_path: Path) -> None:
    path = make_run(tmp_path, finished=False, planned=20)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"train/step": 13, "reward/mean": 0.')
    with (path / "incidents.jsonl").open("a") as file:
        file.write('{"kind": "actor", "unit"')
    (path / "groups" / groups_file(13)).write_bytes(b"PAR1 half of a file")
    report = build(path, groups=10)
    assert report.view["headline"]["facts"][0] == ("steps", "12 of 20")
    assert len(report.view["headline"]["incidents"]) == 1


def test_the_configuration_of_another_release_is_shown(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "config.yaml").write_text((path / "config.yaml").read_text() + "future:\n  key: 3\n")
    text = text_of(render(build(path, groups=4)))
    assert "future.key" in text and "no such key in this release" in text


def test_curves_of_all_strategies_are_shown(tmp_path: Path) -> None:
    """Also those of a plugin that this process did not load."""
    path = make_run(tmp_path, changes={"evaluation": {"strategies": ["pass_at_k", "weighted_vote"]}})
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"eval/own@2": 0.5} if "evaluation/step" in row else row for row in rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = build(path, groups=0)
    assert [chart["title"] for chart in report.data["curves"]] == ["pass@k", "majority@k", "own@k", "vote@k"]
    assert "what training changed" in render(report)


def test_parts_of_a_reward_are_shown(tmp_path: Path) -> None:
    path = make_run(tmp_path, steps=1, rates={})
    file = path / "groups" / groups_file(1)
    one = replace(group("p", [1, 0, 0, 0]), part_names=["correct", "short"], parts=np.array([[1, 0.5]] * N))
    write(file, [one])
    assert build(path, groups=2).data["groups"][0]["samples"][0]["parts"] == {"correct": 1, "short": 0.5}


def test_changed_keys_are_marked(run: Path) -> None:
    rows = {row["key"]: row for row in build(run, groups=0).view["settings"]}
    assert (
        rows["objective.k"]["changed"] and rows["objective.k"]["default"] == "8" and rows["objective.k"]["value"] == "2"
    )
    assert not rows["objective.strategy"]["changed"]
    assert "U_k of the group" in rows["objective.estimator"]["about"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00048, "0.48 ms"),
        (0.29, "0.29 s"),
        (4.2, "4.2 s"),
        (59.4, "59 s"),
        (593.4, "9 min 53 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_running_means_have_intervals() -> None:
    """Against a direct computation at every step; a step without a value stays a gap."""
    values = np.random.default_rng(1).normal(100.0, 1.0, 40)
    values[7] = np.nan
    mean, low, high = running_mean(values, 5)
    for i in (0, 3, 20, 39):
        near = values[max(0, i - 2) : i + 3]
        near = near[np.isfinite(near)]
        half = 1.96 * near.std(ddof=1) / np.sqrt(len(near))
        assert (mean[i], low[i], high[i]) == pytest.approx(
            (near.mean(), near.mean() - half, near.mean() + half), rel=1e-4
        )
    assert np.isnan(mean[7]) and np.isnan(low[7])


def test_time_shares_add_up_to_the_wall_time(run: Path) -> None:
    view = build(run, groups=0).view
    parts = {part["id"]: part["seconds"] for part in view["time"]["parts"]}
    assert parts == {"waiting": 16.8, "learning": 4.8, "sync": 1.2, "other": 1.2, "evaluation": 9}
    assert view["bottleneck"]["verdict"].startswith("Sampling is the bottleneck: samplers work 70 %")


def test_the_command_writes_the_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bonrl("report", str(run), "-o", str(tmp_path / "page.html"), "--groups", "4") == 0
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["RUN", "--live", "-o", "page.html"], "--live serves the page"),
        (["RUN", "-o", "."], "it is a directory"),
        (["RUN", "-o", "missing/page.html"], "name another file"),
    ],
)
def test_what_cannot_work_is_refused(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bonrl("report", *(str(run) if argument == "RUN" else argument for argument in arguments)) == 2
    assert message in capsys.readouterr().err


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "summary.json").write_text("{")
    with pytest.raises(ResultsError, match=r"summary\.json cannot be read"):
        build(path, groups=0)


def test_the_page_needs_neither_ray_nor_torch() -> None:
    code = "import sys, cluster.report.live; print(sorted({'ray', 'torch', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def bonrl(*arguments: str) -> int:
    """Run the command line in this process; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bonrl", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)


def test_the_best_evaluation_is_that_of_the_deployed_metric(tmp_path: Path) -> None:
    run = make_run(tmp_path, changes={"evaluation": {"n": N, "prompts": 12, "keep_best": "reward_mean"}})
    report = build(run, groups=0)
    top = report.view["headline"]
    assert (top["objective"], top["deployed"]) == ("pass@2", "mean reward")
    assert top["difference"]["low"] < top["difference"]["value"] < top["difference"]["high"]
    assert [chart["id"] for chart in report.data["learning"][:2]] == ["objective", "deployed"]
    best = {"metric": "reward_mean", "key": "eval/reward_mean", "step": 12, "value": 0.5, "low": None, "high": None}
    best |= {"split": "test", "checkpoint": "checkpoints/step-000012", "evaluations": 2, "selected_on_test": True}
    (run / "best.json").write_text(json.dumps(best))
    assert [p["which"] for p in build(run, groups=0).view["headline"]["points"]] == ["base", "last"]


def test_a_summary_of_other_steps_is_not_taken_for_the_change(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    wrong = {"pass@2": {"value": 9.0, "low": 9.0, "high": 9.0}}
    rows = [{"evaluation/step": 6}, {"evaluation/step": 12}]
    (run / "summary.json").write_text(json.dumps({"differences": wrong, "evaluations": rows}))
    assert build(run, groups=0).view["headline"]["difference"]["value"] < 1
    rows[0] = {"evaluation/step": 0}
    (run / "summary.json").write_text(json.dumps({"differences": wrong, "evaluations": rows}))
    assert build(run, groups=0).view["headline"]["difference"]["value"] == 9


def test_no_difference_at_all_has_no_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path, rates={0: 0.0, 12: 0.0})
    text = text_of(render(build(run, groups=0)))
    assert "+0.000 , no prompt differs" in text and "[+0.000, +0.000]" not in text


def test_a_run_with_nothing_but_an_evaluation_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=0, planned=5, rates={0: 0.2}, finished=False)
    assert "for the base model" in text_of(render(build(run, groups=4)))


def test_passwords_of_addresses_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, changes={"mlflow": {"tracking_uri": "http://host:5000"}})
    config = run / "config.yaml"  # of an earlier release
    config.write_text(config.read_text().replace("http://host", "http://me:s3cret@host"))
    page = render(build(run, groups=0))
    assert "s3cret" not in page and "http://me:***@host:5000" in page


@pytest.mark.parametrize(
    ("header", "host"),
    [("localhost", "localhost"), ("127.0.0.1:8421", "127.0.0.1"), ("[::1]:8421", "::1"), ("[", None), ("", None)],
)
def test_the_host_of_a_request(header: str, host: str | None) -> None:
    assert _host_of(header) == host
