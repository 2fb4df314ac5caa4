"""`bonrl logs`, on files that the loggers of actors write."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors import logs
from actors.process_stats import Heartbeat
from cluster.commands.app import app
from cluster.errors import UsageError
from cluster.records.log_places import LogPlaces
from cluster.records.run_directory import RunDirectory
from cluster.results.run_logs import Follower, log_files, merged


def line(second: int, level: str, actor: str, message: str) -> str:
    return f"2026-11-23 10:17:{second:02d},391 {level} {actor} step 12 actors.workers: {message}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "driver.log").write_text(
        line(3, "ERROR", "driver", "fails") + "Traceback\n  x\n" + line(5, "INFO", "driver", "e")
    )
    (folder / "sampler-0.log").write_text(line(4, "WARNING", "sampler-0", "d"))
    (folder / "sampler-0.log.1").write_text(line(2, "INFO", "sampler-0", "b"))
    (folder / "sampler-0.log.2").write_text(line(1, "DEBUG", "sampler-0", "a"))
    (folder / "sampler-10.log").write_text(line(6, "INFO", "sampler-10", "f"))
    return tmp_path


def printed(run: Path, *arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["logs", str(run), *arguments])
    if result.exception is not None:
        raise result.exception
    return [text.partition("workers: ")[2] or text for text in result.output.splitlines()]


def test_all_actors_are_merged_by_time_with_their_older_files(run: Path) -> None:
    assert printed(run) == ["a", "b", "fails", "Traceback", "  x", "d", "e", "f"]


def test_control_characters_of_a_text_do_not_reach_the_terminal(run: Path) -> None:
    """A terminal would carry them out: here a title, a cleared screen, and a line that is written over."""
    text = "answer \x1b]0;title\x07\x1b[2J is\t4\r2026-11-23 \x85 {\u202e} é"
    with (run / "logs" / "sampler-10.log").open("a", newline="") as file:
        file.write(line(7, "INFO", "sampler-10", text))
    shown = r"answer \x1b]0;title\x07\x1b[2J is" + "\t" + r"4\r2026-11-23 \x85 {\u202e} é"
    assert printed(run, "sampler-10") == ["f", shown]
    assert [record.text.partition("workers: ")[2] for record in Follower(run, "sampler-10").new()] == ["f", text]


def test_one_actor_or_one_kind_of_actor(run: Path) -> None:
    assert printed(run, "sampler-0") == ["a", "b", "d"]
    assert printed(run, "sampler 0") == ["a", "b", "d"]
    assert printed(run, "sampler") == ["a", "b", "d", "f"]
    with pytest.raises(UsageError, match=r"no log of 'sampler-1'; there are driver, sampler-0, sampler-10"):
        printed(run, "sampler-1")
    with pytest.raises(UsageError, match="give a run directory"):
        printed(run / "none")


def test_logs_on_hosts_without_the_run_directory_are_named(tmp_path: Path) -> None:
    """Not only where Ray logs: a host may have a directory of the same path on its own disk."""
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        run, places = directory.path, LogPlaces(directory)
        for actor in ("driver", "learner-rank-0", "sampler-10"):
            (directory.logs / f"{actor}.log").write_text(line(1, "INFO", actor, "here"))
        for actor, host, file in (
            ("learner rank 0", "a", str(directory.logs / "learner-rank-0.log")),
            ("sampler-0", "b", "/tmp/ray/s/logs/bonrl-run/sampler-0.log"),
            ("sampler-1", "c", str(directory.logs / "sampler-1.log")),
            ("sampler-10", "d", ""),  # it has no log
        ):
            for _ in range(2):
                places.on_heartbeat(actor, Heartbeat("node", (), host=host, log_file=file))
    with pytest.raises(UsageError) as missing:
        printed(run, "sampler-1")
    assert str(missing.value) == (
        f"{run} has no log of 'sampler-1'; read it on its host:\n"
        f"  sampler-1: {run}/logs/sampler-1.log on c, which does not see the run directory"
    )
    unseen = "which does not see the run directory"
    assert printed(run, "sampler") == [
        f"not shown: sampler-0 logs to /tmp/ray/s/logs/bonrl-run/sampler-0.log on b, {unseen}",
        f"not shown: sampler-1 logs to {run}/logs/sampler-1.log on c, {unseen}",
        "here",
    ]
    assert printed(run, "learner") == ["here"]

    with RunDirectory.open(run) as directory:  # resumed, with sampler-0 on a host that sees the run directory
        (directory.logs / "sampler-0.log").write_text(line(2, "INFO", "sampler-0", "back"))
        file = str(directory.logs / "sampler-0.log")
        LogPlaces(directory).on_heartbeat("sampler-0", Heartbeat("node", (), host="a", log_file=file))
    assert printed(run, "sampler-0") == ["back"]
    with pytest.raises(UsageError, match="on c, which does not see"):
        printed(run, "sampler-1")


def test_levels(run: Path) -> None:
    assert printed(run, "--level", "warning") == ["fails", "Traceback", "  x", "d"]
    assert printed(run, "--level", "ERROR") == ["fails", "Traceback", "  x"]
    with pytest.raises(UsageError, match="choose one of DEBUG, INFO"):
        printed(run, "--level", "loud")


def test_following_sees_new_lines_rotated_files_and_new_actors(run: Path) -> None:
    follower = Follower(run, None)
    texts = [record.text.partition("workers: ")[2] for record in follower.new()]
    assert texts == ["a", "b", "fails\nTraceback\n  x", "d", "e", "f"] and follower.new() == []
    file = run / "logs" / "sampler-0.log"
    with file.open("a") as log:
        log.write(line(7, "INFO", "sampler-0", "g"))
        log.write("2026-11-23 10:17:08,391 INFO samp")  # half written
    assert [record.text.partition("workers: ")[2] for record in follower.new()] == ["g"]
    with file.open("a") as log:
        log.write("ler-0 step 12 actors.workers: h\n")
    file.rename(file.with_name("sampler-0.log.1"))
    file.write_text(line(9, "INFO", "sampler-0", "i"))
    (run / "logs" / "verifier-0.log").write_text(line(10, "INFO", "verifier-0", "j"))
    assert [record.text.partition("workers: ")[2] for record in follower.new()] == ["h", "i", "j"]
    assert follower.new() == []


def test_a_file_that_is_missing_while_it_is_rotated_is_read_on_later(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(run, "driver")
    follower.new()
    listed = log_files(run, "driver")
    monkeypatch.setattr("cluster.results.run_logs.log_files", lambda *_: listed)
    file = listed["driver"]
    with file.open("a") as log:
        log.write(line(7, "INFO", "driver", "g"))
    file.rename(file.with_name("driver.log.1"))
    assert [record.text.partition("workers: ")[2] for record in follower.new()] == ["g"]
    file.write_text(line(8, "INFO", "driver", "h"))
    assert [record.text.partition("workers: ")[2] for record in follower.new()] == ["h"]


def test_the_format_is_that_of_the_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with logs.driver_log(tmp_path / "logs", "INFO"):
        logging.getLogger("cluster").warning("what happened\nand more")
    found = [record for record in merged(log_files(tmp_path).values()) if record.level == "WARNING"]
    assert [record.text.partition(": ")[2] for record in found] == ["what happened\nand more"]
    assert found[0].actor == "driver" and len(found[0].time) == 23
