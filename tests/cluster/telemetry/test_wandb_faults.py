"""wandb dies, hangs, raises or fills its disk: the run does not notice, no row is lost, and each loss is one warning.

Most tests put a fake package named `wandb` on the path; the others kill or stop the real one.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.telemetry import tracker
from cluster.telemetry.tracker import Loss
from cluster.telemetry.wandb_writer import WandbError, WandbWriter
from tests.chaos.disks import small_disk
from tests.cluster.telemetry.wandb_reader import read_history

pytestmark = pytest.mark.slow  # each starts processes, and several wait for a deadline

FAKE = """
import json, os, sys, time, types
from pathlib import Path

PLACE = Path(os.environ["FAKE_WANDB"])

def _fault(call):
    plan = json.loads((PLACE / "plan.json").read_text())
    how, times = plan.get(call, ("none", 0))
    done = PLACE / f"{call}.count"
    count = int(done.read_text()) if done.exists() else 0
    if count >= times:
        return
    done.write_text(str(count + 1))
    if how == "raise":
        raise RuntimeError(f"{call} went wrong")
    if how == "exit":
        sys.exit(3)
    if how == "hang":
        time.sleep(600)
    if how == "die":
        os.kill(os.getpid(), 9)

class Settings:
    def __init__(self, **settings):
        _fault("settings")

class Run:
    url = ""
    settings = types.SimpleNamespace(sync_dir=str(PLACE))
    def define_metric(self, *_, **__):
        _fault("define_metric")
    def log(self, row):
        _fault("log")
        with (PLACE / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\\n")
    def finish(self, exit_code):
        _fault("finish")
        (PLACE / "finished").write_text(str(exit_code))

def init(**_):
    _fault("init")
    return Run()

def teardown():
    _fault("teardown")
"""


@dataclass(frozen=True)
class Settings:
    mode: str = "offline"
    project: str = "bonrl-test"
    entity: str | None = None
    tags: tuple[str, ...] = ()


class Fake:
    """A fake package `wandb` that fails as planned and records its calls."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "wandb").mkdir()
        (place / "wandb" / "__init__.py").write_text(FAKE)

    def write(self, mode: str = "offline", /, **plan: tuple[str, int]) -> WandbWriter:
        """A writer on it; `plan` says for each call which fault it has, and how often."""
        (self.place / "plan.json").write_text(json.dumps(plan))
        return WandbWriter(Settings(mode), self.place / "run", config={}, name="x", run_id="abc", finish_deadline_s=5.0)

    def rows(self) -> set[int]:
        """Steps that it was given."""
        file = self.place / "rows.jsonl"
        return {json.loads(line)["train/step"] for line in file.read_text().splitlines()} if file.exists() else set()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path))
    monkeypatch.setattr(tracker, "LOG_DEADLINE_S", 1.0)
    monkeypatch.setattr(tracker, "FINISH_GRACE_S", 0.5)
    yield Fake(tmp_path)
    left = [p for p in psutil.Process().children() if "cluster.telemetry.wandb_writer" in " ".join(p.cmdline())]
    assert not left, f"left behind: {left}"


def row(step: int) -> dict[str, Any]:
    return {"train/step": step, "reward/mean": 0.5}


def finish(writer: WandbWriter) -> tuple[str | None, list[Loss]]:
    message = writer.finish()
    return message, writer.losses()


@pytest.mark.parametrize("fault", ["raise", "exit", "hang", "die"])
def test_a_fault_while_logging_costs_no_row_and_is_one_warning(fake: Fake, fault: str) -> None:
    writer = fake.write(log=(fault, 1))
    began = time.monotonic()
    for step in range(50):
        writer.log(row(step))
    assert time.monotonic() - began < 0.5, "logging does not block"
    message, losses = finish(writer)
    assert message is None and fake.rows() == set(range(50)) and (fake.place / "finished").read_text() == "0"
    (loss,) = losses
    assert loss.recovered_s is not None and "continues run abc" in loss.message
    words = {"raise": "log went wrong", "exit": "3", "hang": "did not log within 1 s", "die": "killed by SIGKILL"}
    assert words[fault] in loss.message


def test_a_helper_that_is_lost_repeatedly_is_switched_off_with_one_warning(fake: Fake) -> None:
    writer = fake.write(log=("raise", 1000))
    for step in range(20):
        writer.log(row(step))
    deadline = time.monotonic() + 20
    losses: list[Loss] = []
    while not any(loss.recovered_s is None for loss in losses):
        assert time.monotonic() < deadline
        losses += writer.losses()
        time.sleep(0.05)
    assert len(losses) <= 1 + tracker.MAX_RESTARTS
    assert "off for the rest of this run" in losses[-1].message and "wandb sync" in losses[-1].message
    writer.log(row(21))
    assert finish(writer) == (None, [])


@pytest.mark.parametrize("call", ["settings", "init", "define_metric"])
def test_wandb_that_cannot_start_is_left_off_unless_it_was_demanded(fake: Fake, call: str) -> None:
    writer = fake.write(**{call: ("raise", 1000)})
    assert writer.describe() == f"wandb: disabled (wandb could not start: {call} went wrong)"
    writer.log(row(1))
    assert finish(writer) == (None, [])


def test_online_that_cannot_start_names_the_remedy(fake: Fake) -> None:
    with pytest.raises(WandbError, match=r"init went wrong.*wandb login.*wandb\.mode"):
        fake.write("online", init=("raise", 1))


def test_a_full_queue_is_reported_and_does_not_block(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "MAX_WAITING", 3)
    writer = fake.write(log=("hang", 1000))
    for step in range(20):
        writer.log(row(step))
    (loss,) = writer.losses()
    assert "3 rows wait for it" in loss.message and loss.recovered_s is None
    assert finish(writer) == (None, [])


@pytest.mark.parametrize(
    ("fault", "words"), [("hang", "did not finish within 1"), ("raise", "could not finish: finish went wrong")]
)
def test_finish_has_a_deadline_and_a_message(fake: Fake, fault: str, words: str) -> None:
    writer = fake.write(finish=(fault, 1000))
    writer.log(row(1))
    began = time.monotonic()
    message = writer.finish(130, deadline_s=1.0)
    assert time.monotonic() - began < 4
    assert message is not None and words in message and "wandb sync" in message
    assert writer.finish() is None and fake.rows() == {1}


def test_a_helper_that_dies_while_it_finishes_is_asked_again(fake: Fake) -> None:
    writer = fake.write(finish=("die", 1))
    writer.log(row(1))
    message, (loss,) = finish(writer)
    assert message is None and loss.recovered_s is not None and (fake.place / "finished").exists()


def _core(writer: WandbWriter) -> psutil.Process:
    (helper,) = [p for p in psutil.Process().children() if "cluster.telemetry.wandb_writer" in " ".join(p.cmdline())]
    (core,) = [p for p in helper.children() if "wandb-core" in " ".join(p.cmdline())]
    return core


def _kill_helper(writer: WandbWriter) -> None:
    _core(writer).parent().send_signal(signal.SIGKILL)


def _kill_core(writer: WandbWriter) -> None:
    _core(writer).send_signal(signal.SIGKILL)


def _stop_core(writer: WandbWriter) -> None:
    _core(writer).send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("inject", [_kill_core, _stop_core, _kill_helper])
def test_files_of_the_real_wandb_hold_every_row_after_a_fault(
    tmp_path: Path, inject: Callable[[WandbWriter], None]
) -> None:
    writer = WandbWriter(Settings(), tmp_path, config={}, name="x")
    for step in range(40):
        writer.log(row(step))
        if step == 20:
            time.sleep(0.5)
            core = _core(writer)
            inject(writer)
    message, losses = finish(writer)
    assert message is None and len(losses) == 1 and losses[0].recovered_s is not None, losses
    assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
    assert {r["train/step"] for r in read_history(tmp_path / "wandb")} == set(range(40))


class _Server(http.server.BaseHTTPRequestHandler):
    """As much of wandb's server as a run needs to begin online."""

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket = {"id": "x", "name": "abc", "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}}
        begins = self.path.endswith("graphql") and b"upsertBucket" in body
        answer = json.dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}} if begins else {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_a_run_continues_offline_when_the_server_and_wandbs_process_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    writer = WandbWriter(Settings("online"), tmp_path, config={}, name="x", init_deadline_s=3.0)
    assert writer.describe().startswith("wandb: online at "), writer.describe()
    for step in range(5):
        writer.log(row(step))
    time.sleep(0.5)
    server.shutdown()
    server.server_close()
    _kill_core(writer)
    for step in range(5, 10):
        writer.log(row(step))
    message, (loss,) = finish(writer)
    assert message is None and loss.recovered_s is not None and "offline-run-" in loss.message, (message, loss)
    (files,) = (tmp_path / "wandb").glob("offline-run-*")
    assert {r["train/step"] for r in read_history(files)} == set(range(10))


def test_a_full_disk_switches_wandb_off_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb itself reports nothing: it continues and loses every row."""
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(tmp_path / "small", 4))
        except PermissionError as error:
            pytest.skip(str(error))
        monkeypatch.setenv("WANDB_DIR", str(disk.path))
        writer = WandbWriter(Settings(), tmp_path, config={}, name="x")
        assert writer.mode == "offline", writer.describe()
        losses: list[Loss] = []
        end = time.monotonic() + 60
        for step in range(100_000):
            writer.log(row(step))
            if step == 3:
                disk.fill()
            losses += writer.losses()
            if losses:
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        (loss,) = losses
        assert "No space left on device" in loss.message and "off for the rest of this run" in loss.message
        assert finish(writer) == (None, [])


def test_the_variables_of_the_helper_stay_out_of_this_process(fake: Fake) -> None:
    before = dict(os.environ)
    assert finish(fake.write()) == (None, [])
    assert dict(os.environ) == before
