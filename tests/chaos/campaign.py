"""Kill, stop and starve processes of every kind of one run at random moments, and audit the run afterwards.

    python -m tests.chaos.campaign --faults 50 --seed 0 --staleness 1 --directory DIRECTORY

The same seed injects the same faults in the same order. After each fault the campaign waits until the run has
recovered and finished two more optimizer steps, and records how long detection and recovery took. Some faults are
followed by a second one before that; one kills the replay queue right after the driver was resumed. The audit at the
end: the run trained every position of the prompt stream exactly once, within the staleness bound, its last checkpoint
can be read, and an undisturbed learner that trains on the recorded groups ends with the same weights, bit by bit.
Prints a table, writes ``report.json``, and exits with 1 if the audit found a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.metrics_tail import last_step
from cluster.records.weight_fingerprint import weights_sha256
from learner.checkpoint_identity import HUGGINGFACE
from tests.chaos import coder, faults
from tests.chaos.audit import audit
from tests.chaos.disks import SmallDisk
from tests.chaos.report import Recovery, Report
from tests.chaos.schedule import Fault, schedule
from tests.cluster.running import LOCAL, REPOSITORY, command, environment

POLL_S = 0.25  # between two looks at the run, which shares its processors with this process
RECOVERY_S = 240.0  # from one fault, on a busy machine
RESUME_S = 300.0
MODEL_S = 900.0  # to make the model that the run trains
REPLAY_S = 1800.0
INTERRUPTED = 130  # exit status of a run that was asked to stop
GONE_S = 60.0  # for all processes of a killed driver to be gone


@dataclass(frozen=True)
class _Injected:
    """A fault that was injected, and what is needed to recognize the recovery from it."""

    kind: str
    way: str
    during: str | None
    at: float  # monotonic clock
    wall: float  # the clock of incidents
    incidents: int  # number of them before it
    lost: bool  # a process is lost, so there will be an incident


class Campaign:
    """One run and the faults that are injected into it.

    Args:
        directory: an empty directory; the run writes into ``run`` in it.
        overrides: of the configuration, which must name run.steps and rollout.prompts_per_step.
        seed: of the choice of moments.
        stops: the run is asked to stop (SIGTERM) after the last fault; otherwise it runs to its last step.
        replays: compare the weights of a stopped run with those of an undisturbed learner on the recorded groups.
        disk: holds the run; a fault of kind "disk" fills it, frees it when the run has ended, and resumes the run.
        wandb_disk: holds wandb's files; a fault of kind "wandb's disk" fills it and does not free it.
    """

    replay_overrides: tuple[str, ...] = ()  # of the undisturbed learner

    def __init__(
        self,
        directory: Path,
        overrides: Sequence[str],
        seed: int,
        *,
        stops: bool = False,
        replays: bool = True,
        config: Path = LOCAL,
        disk: SmallDisk | None = None,
        wandb_disk: SmallDisk | None = None,
    ) -> None:
        self.directory = directory
        self._disk, self._wandb_disk = disk, wandb_disk
        self.run = (disk.path if disk else directory) / "run"
        self.report = Report()
        self._stops, self._replays = stops, replays
        self._config = config
        self._overrides = list(overrides)
        self._random = random.Random(seed)
        self._log = directory / "output.log"
        self._process: subprocess.Popen | None = None
        self._injected = 0  # faults so far

    def report_on(self, schedule: Sequence[Fault]) -> int:
        """Execute `schedule`, print the report and write it; the exit status."""
        try:
            self.execute(schedule)
        except AssertionError as error:
            self.report.problems.append(str(error))
        self.write()
        print(self.report.summary())
        return 1 if self.report.problems else 0

    def execute(self, schedule: Sequence[Fault]) -> Report:
        """Start the run, inject the faults of `schedule`, let the run end, and audit it."""
        try:
            self._launch("train", *self._overrides, f"run.directory={self.run.parent}", "run.name=run")
            self._wait(lambda: self._steps() >= 1, "the first step", RESUME_S)
            for fault in schedule:
                self._recover_from(fault)
            self._expect_end()
        finally:
            self._end()
        final = audit(self.run, self._number("rollout.prompts_per_step"), self.report)
        if final is not None and self._stops and self._replays:
            self._compare_with_undisturbed_learner(weights_sha256(final.path / HUGGINGFACE))
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

    def _recover_from(self, fault: Fault) -> None:
        """Inject `fault`, wait until the run has recovered, and record how long that took."""
        time.sleep(self._random.uniform(0.0, 2.0))
        injected = [self._inject(fault.kind, fault.way)]
        if fault.then is not None:
            self._await_recovery_under_way(injected[0])
            injected.append(self._inject(*fault.then, during=fault.kind))
        seconds = [self._until_recovered(one) for one in injected]
        # Two more steps: the current one may have had all it needed before the fault.
        after = self._steps()
        self._wait(lambda: self._steps() >= after + 2 or self._done(), "two more steps", RECOVERY_S)
        for one, (detected, serving) in zip(injected, seconds, strict=True):
            step_s = time.monotonic() - one.at
            self.report.recoveries.append(Recovery(one.kind, one.way, detected, serving, step_s, one.during))
        self.write()

    def _inject(self, kind: str, way: str, during: str | None = None) -> _Injected:
        """One fault; a killed driver is resumed at once."""
        self._injected += 1
        before = len(self._incidents())
        self._say(f"fault {self._injected}: {way} of {kind}" + (f", after {during}" if during else ""))
        at, wall = time.monotonic(), time.time()
        lost = False
        if kind == "driver":
            self._kill_the_driver()
        elif kind == "disk":
            self._fill_the_disk()
        elif kind == "wandb's disk":
            assert self._wandb_disk is not None
            self._wandb_disk.fill()
            reported = lambda: any(i["unit"] == "wandb" for i in self._incidents()[before:])  # noqa: E731
            self._wait(reported, "an incident about wandb's disk", RECOVERY_S)
        else:
            lost = self._inject_into_one(lambda: faults.find(self._root, kind), way) and kind not in faults.UNREPORTED
        return _Injected(kind, way, during, at, wall, before, lost)

    def _await_recovery_under_way(self, first: _Injected) -> None:
        """Until the run is recovering from `first`; after a fault of the driver, until training begins again."""
        if first.kind == "driver":
            began = lambda: faults.sampling(self._root)  # noqa: E731
            self._wait(began, "training beginning again", RESUME_S, every_s=0.05)
            time.sleep(self._random.uniform(0.0, 0.9))
        else:
            self._wait(lambda: bool(self._incidents_since(first)), f"an incident about the {first.kind}", RECOVERY_S)
            time.sleep(self._random.uniform(0.0, 10.0))

    def _inject_into_one(self, candidates: Callable[[], list[psutil.Process]], way: str) -> bool:
        """Inject a fault into one of the candidates; whether that process is lost."""
        lost: list[bool] = []

        def injected() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself: try another one
                if victims := candidates():
                    lost.append(faults.INJECT[way](self._random.choice(victims)))
            return bool(lost)

        self._wait(injected, "a process to inject the fault into", RECOVERY_S)
        return lost[0]

    def write(self) -> None:
        (self.directory / "report.json").write_text(json.dumps(asdict(self.report), indent=1))

    def _incidents_since(self, of: _Injected) -> list[tuple[float, dict[str, Any]]]:
        """Incidents of the unit since the fault, with the seconds from the one to the other."""
        unit = faults.UNITS.get(of.kind, of.kind)
        since = self._incidents()[of.incidents :]
        return [(i["time"] - of.wall, i) for i in since if i["unit"].startswith(unit)]

    def _until_recovered(self, of: _Injected) -> tuple[float | None, float | None]:
        """Seconds until the loss was detected, and until the replacement served; None if nothing was lost."""
        if not of.lost:
            return None, None
        self._wait(lambda: bool(self._incidents_since(of)), f"an incident about the {of.kind}", RECOVERY_S)

        def recovered() -> list[float]:
            return [after for after, incident in self._incidents_since(of) if incident["recovered_s"] is not None]

        self._wait(lambda: bool(recovered()), f"the {of.kind} serving again", RECOVERY_S)
        return self._incidents_since(of)[0][0], recovered()[0]

    def _kill_the_driver(self) -> None:
        def kill() -> None:
            assert self._process is not None
            self._process.kill()
            self._process.wait(timeout=30)

        self._end_and_resume(kill, "a killed driver")

    def _fill_the_disk(self) -> None:
        """The run has to end with the reason and the resume command, which has to work once there is space."""

        def fill() -> None:
            assert self._process is not None and self._disk is not None
            said = len(self._log.read_text())
            self._disk.fill()
            status = self._process.wait(timeout=RECOVERY_S)
            words = self._log.read_text()[said:]
            wanted = ("No space left on device", f"continue with: bonrl train --resume {self.run}")
            if status != 1 or not all(one in words for one in wanted) or "Traceback" in words:
                self.report.problems.append(f"on a full disk the run ended with status {status}:\n{words[-2000:]}")

        self._end_and_resume(fill, "a run on a full disk")

    def _end_and_resume(self, end: Callable[[], None], what: str) -> None:
        """Let `end` end the run once it has a checkpoint, expect its processes to be gone, and resume it."""
        saved = self.run / "checkpoints"
        self._wait(lambda: bool(list(saved.glob("step-*"))), "a checkpoint to resume from", RECOVERY_S)
        everyone = faults.without_ray_agents(self._root.children(recursive=True))
        end()
        self._expect_gone(everyone, what)
        if self._disk is not None:
            self._disk.free()
        self._launch("train", "--resume", str(self.run))
        log = self._log.read_text().count("run directory")
        self._wait(lambda: self._log.read_text().count("run directory") > log, "the resume", RESUME_S)

    def _expect_gone(self, everyone: list[psutil.Process], what: str) -> None:
        _, alive = psutil.wait_procs(everyone, timeout=GONE_S)
        if alive:
            self.report.problems.append(f"{what} left processes behind: {alive}")

    def _expect_end(self) -> None:
        assert self._process is not None
        everyone = [] if self._over() else faults.without_ray_agents(self._root.children(recursive=True))
        if self._stops:
            self._process.terminate()
        try:
            status = self._process.wait(timeout=1800)
        except subprocess.TimeoutExpired:
            self.report.problems.append("the run did not end within 1800 s after the last fault")
            return
        output = self._log.read_text()
        if status != (INTERRUPTED if self._stops else 0):
            self.report.problems.append(f"the run ended with status {status}:\n{output[-3000:]}")
        match = re.findall(r"^weights +([0-9a-f]{64})$", output, re.MULTILINE)
        self.report.weights = match[-1] if match else ""
        left = re.findall(r"stopped after step (\d+)", output)
        self.report.steps = int(left[-1]) if left else self._number("run.steps")
        self._expect_gone(everyone, "the run")

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            everyone = [self._root, *self._root.children(recursive=True)]
            for process in everyone:
                process.kill()
            self._process.wait(timeout=30)

    def _compare_with_undisturbed_learner(self, weights: str) -> None:
        """An undisturbed learner that trains on the recorded groups must end with the same weights."""
        self._say("replaying the recorded groups")
        where = [f"run.steps={self.report.steps}", f"run.directory={self.directory}", "run.name=replay"]
        replay = command("train", "--replay", str(self.run), *where, *self.replay_overrides, config=None)
        run = subprocess.run(
            replay, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=REPLAY_S
        )
        again = re.findall(r"^weights +([0-9a-f]{64})$", run.stdout, re.MULTILINE)
        self.report.weights, self.report.replayed = weights, again[-1] if again else "none"
        if again != [weights]:
            self.report.problems.append(f"replayed weights are {again}, not {weights}:\n{run.stderr[-2000:]}")

    def _number(self, key: str) -> int:
        return next(int(o.partition("=")[2]) for o in self._overrides if o.startswith(f"{key}="))

    def _steps(self) -> int:
        return last_step(self.run)

    def _incidents(self) -> list[dict[str, Any]]:
        file = self.run / "incidents.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _over(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _done(self) -> bool:
        assert self._process is not None
        return self._process.poll() == 0

    def _wait(self, condition: Callable[[], bool], what: str, limit_s: float, every_s: float = POLL_S) -> None:
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
    """`overrides` with wandb's processes, so that faults can be injected into them too."""
    return [*(one for one in overrides if not one.startswith("wandb.mode")), "wandb.mode=offline"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50, help="number of faults")
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
    campaign = Campaign(options.directory, overrides, options.seed, stops=True)
    return campaign.report_on(schedule(options.faults, options.seed))


if __name__ == "__main__":
    sys.exit(main())
