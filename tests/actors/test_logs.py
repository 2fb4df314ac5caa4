"""Log files name the actor and its step, and a run works where they cannot be written."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from actors import logs, ordered_writer
from actors.logs import driver_log, environment, set_step


@pytest.fixture(autouse=True)
def _step_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_step", 0)


def test_a_line_has_time_level_actor_step_module_and_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with driver_log(tmp_path / "logs", "INFO"):
        set_step(7)
        logging.getLogger("cluster.run.run").info("broadcast of %d MiB", 3)
        logging.getLogger("learner.engine").debug("below the level")
        logging.getLogger("vllm").info("of another package")
    line = (tmp_path / "logs" / "driver.log").read_text().splitlines()[-1]
    assert line[:2] == "20" and line.endswith(" INFO driver step 7 cluster.run.run: broadcast of 3 MiB")
    assert capfd.readouterr() == ("", ""), "the terminal stays as it is"


def test_the_driver_logs_the_traceback_of_a_bug_and_nothing_afterwards(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), driver_log(tmp_path, "ERROR"):
        _ = 1 / 0
    logging.getLogger("cluster").error("after the run")
    text = (tmp_path / "driver.log").read_text()
    assert "Traceback" in text and "ZeroDivisionError" in text and "after the run" not in text


def test_a_log_that_cannot_be_written_does_not_disturb_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with driver_log(blocked / "logs", "INFO"):
        logging.getLogger("cluster").warning("lost")
    assert capfd.readouterr() == ("", "")


@pytest.fixture()
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Writing a line to driver.log sets the first event and waits for the second."""
    begun, answers = threading.Event(), threading.Event()
    emit = logs._LogFile.emit

    def hang(file: logs._LogFile, record: logging.LogRecord) -> None:
        begun.set()
        assert answers.wait(30)
        emit(file, record)

    monkeypatch.setattr(logs._LogFile, "emit", hang)
    return begun, answers


def test_a_disk_that_hangs_does_not_stop_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging_disk: tuple[threading.Event, threading.Event]
) -> None:
    begun, answers = hanging_disk
    monkeypatch.setattr(logs, "_END_SECONDS", 0.1)
    with driver_log(tmp_path, "INFO"):
        for step in (4, 5):
            set_step(step)
            logging.getLogger("cluster").info("step %d", step)
        assert begun.wait(10)
    assert not (tmp_path / "driver.log").exists()
    answers.set()
    for _ in range(1000):
        if "step 5" in (text := (tmp_path / "driver.log").read_text() if (tmp_path / "driver.log").exists() else ""):
            break
        time.sleep(0.01)
    assert [line.split("driver ")[1] for line in text.splitlines()[1:]] == [
        "step 4 cluster: step 4",
        "step 5 cluster: step 5",
    ]


def test_lines_that_did_not_fit_while_the_disk_hung_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging_disk: tuple[threading.Event, threading.Event]
) -> None:
    begun, answers = hanging_disk
    monkeypatch.setattr(ordered_writer, "MAX_WAITING", 2)
    with driver_log(tmp_path, "INFO"):
        logging.getLogger("cluster").info("first")
        assert begun.wait(10)
        for number in range(5):
            logging.getLogger("cluster").info("line %d", number)
        answers.set()
    last = (tmp_path / "driver.log").read_text().splitlines()[-1]
    assert last == "4 lines are missing above: the disk hung for too long"


def test_a_message_that_cannot_be_formatted_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with driver_log(tmp_path, "INFO"):
        logging.getLogger("cluster").info("%d steps", "three")
    assert "test_logs.py" in capfd.readouterr().err


def log_in_actor(variables: dict[str, str], output: Path) -> None:
    """Start the log of an actor in a process whose standard error is in `output`, as that of Ray's workers is."""
    code = (
        "import logging, warnings; from actors.logs import set_step, start_actor_log; start_actor_log(); set_step(4)\n"
        "logging.getLogger('actors.workers.x').debug('sampled')\n"
        "logging.getLogger('elsewhere').warning('a warning of a library')\n"
        "from actors.logs import own_log; print('own log', own_log())\n"
    )
    with output.open("w") as file:
        subprocess.run(
            [sys.executable, "-c", code], env=variables, stdout=file, stderr=file, check=True, timeout=60,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip


def test_an_actor_logs_into_the_run_directory(tmp_path: Path) -> None:
    log_in_actor(environment("learner rank 1", tmp_path / "logs", "DEBUG"), tmp_path / "worker.err")
    started, *lines = (tmp_path / "logs" / "learner-rank-1.log").read_text().splitlines()
    assert " INFO learner-rank-1 step 0 actors.logs: started: process " in started and "Python 3." in started
    assert lines[0].endswith(" DEBUG learner-rank-1 step 4 actors.workers.x: sampled")
    assert lines[1].endswith(" WARNING learner-rank-1 step 4 elsewhere: a warning of a library")
    assert "a warning of a library" in (tmp_path / "worker.err").read_text(), "quoted when the actor dies"


@pytest.mark.parametrize(("run", "name"), [("/nowhere/my-run", "bonrl-my-run"), (None, "bonrl-evaluation")])
def test_without_a_run_directory_an_actor_logs_where_ray_does(tmp_path: Path, run: str | None, name: str) -> None:
    """The node of the actor does not see the run directory, or there is none."""
    log_in_actor(environment("sampler-0", Path(run) / "logs" if run else None, "INFO"), tmp_path / "worker.err")
    assert "sampler-0 step 0" in (tmp_path / name / "sampler-0.log").read_text()
    assert f"own log {tmp_path / name / 'sampler-0.log'}\n" in (tmp_path / "worker.err").read_text()


def test_outside_of_a_run_nothing_is_logged(tmp_path: Path) -> None:
    log_in_actor({}, tmp_path / "worker.err")
    assert not list(tmp_path.rglob("*.log"))
