"""A run under fire: processes of every kind are killed, stopped and starved at random moments; then it is audited.

    python -m tests.chaos.campaign --kills 50 --seed 0 --staleness 1 --directory DIRECTORY

Seeded: the same seed strikes the same kinds with the same blows in the same order. After each blow it waits until the
run has mended the loss and finished two more optimiser steps, and notes how long detection and recovery took. Some
are followed by a second one before that; one hits the replay queue right after the driver was resumed. At the end
the run has to have trained every position of the prompt stream exactly once, within the staleness bound, and to have
left a checkpoint that can be read back; and a learner that nobody disturbs, fed with the recorded groups, has to end
with the same weights, bit by bit. Prints a table, writes ``report.json``, and exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from actors.workers.learner_rank import HUGGINGFACE
from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import read_metrics
from cluster.records.weight_fingerprint import weights_sha256
from cluster.telemetry.metrics_tail import MetricsTail
from tests.chaos import blows, coder
from tests.chaos.disks import SmallDisk
from tests.chaos.report import Blow, Report
from tests.chaos.schedule import Strike, schedule
from tests.cluster.running import LOCAL, REPOSITORY, command, environment

LOOK_S = 0.25  # between two looks at the run, which shares its processors with this
MEND_S = 240.0  # for one blow to be mended, with everything else that runs on the machine
RESUME_S = 300.0
MODEL_S = 900.0  # for the model that the run under fire trains
REPLAY_S = 1800.0
LEFT = 130  # exit status of a run that was asked to leave
GONE_S = 60.0  # for all processes of a killed driver to be gone


@dataclass(frozen=True)
class _Fallen:
    """A blow that has fallen, and what is needed to see it mended."""

    kind: str
    blow: str
    during: str | None
    struck: float  # monotonic clock
    wall: float  # the clock of incidents
    told: int  # incidents before it
    lost: bool  # by it, so that there will be one


class Campaign:
    """One run and the blows against it.

    Args:
        directory: an empty directory; the run lies in ``run`` in it.
        overrides: of the configuration, which must name run.steps and rollout.prompts_per_step.
        seed: of the choice of moments.
        leaves: after the last blow the run is asked to leave (SIGTERM); else it goes on to its last step.
        replays: a run that left is held against an undisturbed learner, fed with the recorded groups.
        disk: the run lies on it; a blow of kind "disk" fills it, frees it when the run has ended, and resumes.
        wandb_disk: wandb's files lie on it; a blow of kind "wandb's disk" fills it for good.
    """

    def __init__(
        self,
        directory: Path,
        overrides: Sequence[str],
        seed: int,
        *,
        leaves: bool = False,
        replays: bool = True,
        config: Path = LOCAL,
        disk: SmallDisk | None = None,
        wandb_disk: SmallDisk | None = None,
    ) -> None:
        self.directory = directory
        self._disk, self._wandb_disk = disk, wandb_disk
        self.run = (disk.path if disk else directory) / "run"
        self.report = Report()
        self._leaves, self._replays = leaves, replays
        self._config = config
        self._overrides = list(overrides)
        self._random = random.Random(seed)
        self._log = directory / "output.log"
        self._process: subprocess.Popen | None = None
        self._tail = MetricsTail(self.run)
        self._fell = 0  # blows so far

    def execute(self, schedule: Sequence[Strike]) -> Report:
        """Run, strike by the `schedule`, let the run end, and audit it."""
        try:
            self._launch("train", *self._overrides, f"run.directory={self.run.parent}", "run.name=run")
            self._wait(lambda: self._steps() >= 1, "the first step", RESUME_S)
            for strike in schedule:
                self._strike(strike)
            self._expect_end()
        finally:
            self._end()
        self._audit()
        return self.report

    def _launch(self, *arguments: str, config: Path | None = None) -> None:
        config = config or (None if "--resume" in arguments else self._config)
        with self._log.open("a") as sink:
            self._process = subprocess.Popen(
                command(*arguments, config=config),
                cwd=REPOSITORY,
                env=environment() | ({"WANDB_DIR": str(self._wandb_disk.path)} if self._wandb_disk else {}),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    @property
    def _root(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def _strike(self, strike: Strike) -> None:
        time.sleep(self._random.uniform(0.0, 2.0))
        fallen = [self._fall(strike.kind, strike.blow)]
        if strike.then is not None:
            self._await_the_moment_after(fallen[0])
            fallen.append(self._fall(*strike.then, during=strike.kind))
        mended = [self._mended(one) for one in fallen]
        # Two more steps: the one under way may have had all it needed before the blow.
        after = self._steps()
        self._wait(lambda: self._steps() >= after + 2 or self._done(), "two more steps", MEND_S)
        for one, (detected, serving) in zip(fallen, mended, strict=True):
            step_s = time.monotonic() - one.struck
            self.report.blows.append(Blow(one.kind, one.blow, detected, serving, step_s, one.during))
        self.write()

    def _fall(self, kind: str, blow: str, during: str | None = None) -> _Fallen:
        """One blow; the driver is resumed at once."""
        self._fell += 1
        told = len(self._incidents())
        self._say(f"blow {self._fell}: {blow} of {kind}" + (f", after {during}" if during else ""))
        struck, wall = time.monotonic(), time.time()
        if kind == "driver":
            self._kill_the_driver()
            lost = False
        elif kind == "disk":
            self._fill_the_disk()
            lost = False
        elif kind == "wandb's disk":
            assert self._wandb_disk is not None
            self._wandb_disk.fill()
            self._wait(lambda: any(i["unit"] == "wandb" for i in self._incidents()[told:]), "word of it", MEND_S)
            lost = False
        else:
            lost = self._hit(lambda: blows.find(self._root, kind), blow) and kind not in blows.UNTOLD
        return _Fallen(kind, blow, during, struck, wall, told, lost)

    def _await_the_moment_after(self, first: _Fallen) -> None:
        """While the first loss is being mended; of the driver, when training begins again."""
        if first.kind == "driver":
            began = lambda: blows.sampling(self._root)  # noqa: E731
            self._wait(began, "training beginning again", RESUME_S, every_s=0.05)
            time.sleep(self._random.uniform(0.0, 0.9))
        else:
            self._wait(lambda: bool(self._news(first)), f"the loss of the {first.kind} being noticed", MEND_S)
            time.sleep(self._random.uniform(0.0, 10.0))

    def _hit(self, candidates: Callable[[], list[psutil.Process]], blow: str) -> bool:
        """Strike one of the candidates; whether it is lost by that."""
        lost: list[bool] = []

        def struck() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):  # gone before the blow fell: another then
                if victims := candidates():
                    lost.append(blows.BLOWS[blow](self._random.choice(victims)))
            return bool(lost)

        self._wait(struck, "somebody to strike", MEND_S)
        return lost[0]

    def write(self) -> None:
        (self.directory / "report.json").write_text(json.dumps(asdict(self.report), indent=1))

    def _news(self, of: _Fallen) -> list[tuple[float, dict[str, Any]]]:
        """Incidents of the unit since the blow, with the seconds from the one to the other."""
        unit = blows.UNITS.get(of.kind, of.kind)
        since = self._incidents()[of.told :]
        return [(i["time"] - of.wall, i) for i in since if i["unit"].startswith(unit)]

    def _mended(self, of: _Fallen) -> tuple[float | None, float | None]:
        """Seconds until the loss was noticed, and until its successor served; None if nothing had to be noticed."""
        if not of.lost:
            return None, None
        self._wait(lambda: bool(self._news(of)), f"the loss of the {of.kind} being noticed", MEND_S)

        def recovered() -> list[float]:
            return [after for after, incident in self._news(of) if incident["recovered_s"] is not None]

        self._wait(lambda: bool(recovered()), f"the {of.kind} serving again", MEND_S)
        return self._news(of)[0][0], recovered()[0]

    def _kill_the_driver(self) -> None:
        assert self._process is not None
        saved = self.run / "checkpoints"
        self._wait(lambda: bool(list(saved.glob("step-*"))), "a checkpoint to resume from", MEND_S)
        everyone = blows.ours(self._root.children(recursive=True))
        self._process.kill()
        self._process.wait(timeout=30)
        _, alive = psutil.wait_procs(everyone, timeout=GONE_S)
        if alive:
            self.report.problems.append(f"a killed driver left processes behind: {alive}")
        self._launch("train", "--resume", str(self.run))
        log = self._log.read_text().count("run directory")
        self._wait(lambda: self._log.read_text().count("run directory") > log, "the resume", RESUME_S)

    def _fill_the_disk(self) -> None:
        """The run has to end with the reason and the command to go on, which works once there is room."""
        assert self._process is not None and self._disk is not None
        saved = self.run / "checkpoints"
        self._wait(lambda: bool(list(saved.glob("step-*"))), "a checkpoint to resume from", MEND_S)
        everyone = blows.ours(self._root.children(recursive=True))
        said = len(self._log.read_text())
        self._disk.fill()
        status = self._process.wait(timeout=MEND_S)
        words = self._log.read_text()[said:]
        told = ("No space left on device", f"continue with: bonrl train --resume {self.run}")
        if status != 1 or not all(one in words for one in told) or "Traceback" in words:
            self.report.problems.append(f"on a full disk the run ended with status {status}:\n{words[-2000:]}")
        _, alive = psutil.wait_procs(everyone, timeout=GONE_S)
        if alive:
            self.report.problems.append(f"on a full disk the run left processes behind: {alive}")
        self._disk.free()
        self._launch("train", "--resume", str(self.run))
        log = self._log.read_text().count("run directory")
        self._wait(lambda: self._log.read_text().count("run directory") > log, "the resume", RESUME_S)

    def _expect_end(self) -> None:
        assert self._process is not None
        everyone = blows.ours(self._root.children(recursive=True)) if self._process.poll() is None else []
        if self._leaves:
            self._process.terminate()
        try:
            status = self._process.wait(timeout=1800)
        except subprocess.TimeoutExpired:
            self.report.problems.append("the run did not end within 1800 s after the last blow")
            return
        output = self._log.read_text()
        if status != (LEFT if self._leaves else 0):
            self.report.problems.append(f"the run ended with status {status}:\n{output[-3000:]}")
        match = re.findall(r"^weights +([0-9a-f]{64})$", output, re.MULTILINE)
        self.report.weights = match[-1] if match else ""
        left = re.findall(r"stopped after step (\d+)", output)
        self.report.steps = int(left[-1]) if left else self._number("run.steps")
        _, alive = psutil.wait_procs(everyone, timeout=GONE_S)
        if alive:
            self.report.problems.append(f"the run left processes behind: {alive}")

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            everyone = [self._root, *self._root.children(recursive=True)]
            for process in everyone:
                process.kill()
            self._process.wait(timeout=30)

    def _audit(self) -> None:
        """Every position exactly once, nothing staler than the bound, and a model that can be read back."""
        steps, prompts = self.report.steps, self._number("rollout.prompts_per_step")
        positions: Counter[int] = Counter()
        trained: Counter[tuple[int, str]] = Counter()
        for path in sorted((self.run / "groups").glob("step-*.parquet")):
            for group in pq.read_table(path, columns=["sequence", "epoch", "prompt_id", "verdict"]).to_pylist():
                positions[group["sequence"]] += 1
                trained[group["epoch"], group["prompt_id"]] += 1
                if not group["verdict"]:
                    self.report.problems.append(f"position {group['sequence']} was quarantined")
        expected = Counter(range(steps * prompts))
        if positions != expected:
            self.report.problems.append(
                f"lost: {sorted((expected - positions).elements())}, twice: {sorted((positions - expected).elements())}"
            )
        if max(trained.values(), default=0) > 1:
            self.report.problems.append("a prompt was trained twice in an epoch")
        rows = [row for row in read_metrics(self.run) if "train/step" in row]
        if [row["train/step"] for row in rows] != list(range(1, steps + 1)):
            self.report.problems.append("metrics.jsonl does not hold every step once")
        if rows:
            observed = int(max(row["queue/staleness_max"] for row in rows))
            self.report.staleness = observed, int(rows[0]["queue/staleness_bound"])
            if observed > rows[0]["queue/staleness_bound"]:
                self.report.problems.append(f"staleness {self.report.staleness} above its bound")
            fifth = max(1, len(rows) // 5)
            first, last = (statistics.mean(r["reward/mean"] for r in some) for some in (rows[:fifth], rows[-fifth:]))
            self.report.reward = first, last
            self.report.with_gradient = sum(not row["optimizer/skipped"] for row in rows)
            if not self.report.with_gradient:
                self.report.problems.append("no step had a gradient: this run could not show anything")
        final = Checkpoints(self.run / "checkpoints").latest().checkpoint
        if final is None or final.step != steps:
            self.report.problems.append("there is no usable checkpoint of the last step")
        elif self._leaves and self._replays:
            self._compare_with_undisturbed_learner(weights_sha256(final.path / HUGGINGFACE))

    def _compare_with_undisturbed_learner(self, weights: str) -> None:
        """The recorded groups, trained on once more by a learner that nobody strikes, must make the same weights."""
        self._say("replaying the recorded groups")
        where = [f"run.steps={self.report.steps}", f"run.directory={self.directory}", "run.name=replay"]
        replay = command("train", "--replay", str(self.run), *where, config=None)
        run = subprocess.run(
            replay, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=REPLAY_S
        )
        again = re.findall(r"^weights +([0-9a-f]{64})$", run.stdout, re.MULTILINE)
        self.report.weights = weights
        if again != [weights]:
            self.report.problems.append(f"replayed weights are {again}, not {weights}:\n{run.stderr[-2000:]}")

    def _number(self, key: str) -> int:
        return next(int(o.partition("=")[2]) for o in self._overrides if o.startswith(f"{key}="))

    def _steps(self) -> int:
        return self._tail.step()

    def _incidents(self) -> list[dict[str, Any]]:
        file = self.run / "incidents.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _over(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _done(self) -> bool:
        assert self._process is not None
        return self._process.poll() == 0

    def _wait(self, condition: Callable[[], bool], what: str, limit_s: float, every_s: float = LOOK_S) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if self._over():
                raise AssertionError(f"the run ended before {what}:\n{self._log.read_text()[-4000:]}")
            if time.monotonic() > end:
                raise AssertionError(f"no sign of {what} within {limit_s:.0f} s:\n{self._log.read_text()[-4000:]}")
            time.sleep(every_s)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


SMALL = (
    "rollout.prompts_per_step=4",
    "rollout.n=8",
    "objective.k=4",
    "evaluation.at_start=false",
    "evaluation.every=0",
    "evaluation.at_end=false",
    "checkpoint.every=5",
    "supervision.max_restarts=1000",
    "wandb.mode=disabled",
)


def offline(overrides: Sequence[str]) -> list[str]:
    """`overrides` with wandb's processes, which then are struck too."""
    return [*(one for one in overrides if not one.startswith("wandb.mode")), "wandb.mode=offline"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of blows")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the moments")
    parser.add_argument("--staleness", type=int, default=1, help="queue.staleness of the run")
    parser.add_argument("--directory", type=Path, required=True, help="an empty directory for the run and the report")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    overrides = [*offline(SMALL), "run.steps=1000000", f"queue.staleness={options.staleness}"]
    world = options.directory / "coder"
    if not world.exists():
        print("making a small model that writes programs, and problems for it", flush=True)
        maker = [sys.executable, "-m", "tests.chaos.coder", str(world)]
        subprocess.run(maker, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, timeout=MODEL_S)
    overrides += coder.overrides(world)
    campaign = Campaign(options.directory, overrides, options.seed, leaves=True)
    try:
        report = campaign.execute(schedule(options.kills, options.seed))
    except AssertionError as error:
        report = campaign.report
        report.problems.append(str(error))
    campaign.write()
    print(report.table())
    print(f"{report.steps} steps; staleness: observed {report.staleness[0]}, bound {report.staleness[1]}")
    print(f"{report.with_gradient} steps with a gradient; reward {report.reward[0]:.3f} -> {report.reward[1]:.3f}")
    print("problems: " + ("; ".join(report.problems) if report.problems else "none"))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
