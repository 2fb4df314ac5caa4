"""Does the missing runs, verifiers and evaluations of a plan."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from actors.queue.group_log import groups_file
from benchmarks.commands import bonrl, do_all
from benchmarks.planned.plan import check_overrides
from benchmarks.refresh import verifiers
from benchmarks.refresh.measures import Measures
from benchmarks.refresh.plan import BASE, FIRST, LAST, NO_VERIFIER, OWN, Plan, Segment
from benchmarks.refresh.results import Course, Key, RunKey, answers_of_steps, scored
from cluster.records.checkpoints import Checkpoints
from verifiers.learned.classifier import CARD

SECONDS = "seconds"  # that the first samples took
SAME = 1e-3  # probabilities of one verifier in two processes differ by less

one_thread = partial(bonrl, environment={"OMP_NUM_THREADS": "1"})  # train-verifier has no key for it


@dataclass(frozen=True)
class Stages:
    """Runs a plan.

    Args:
        scratch: for runs and verifiers; those of a run are removed when it is measured.
        command: runs `bonrl`; a parameter for tests, as `score`, which gives a verifier's probabilities of answers.
        extra: overrides of every command for this machine, such as `sampler.kv_cache_gib`.
    """

    found: Measures
    scratch: Path
    command: Callable[..., None] = one_thread
    score: Callable[[Path, verifiers.Answers], np.ndarray] = verifiers.probabilities
    extra: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        return self.found.plan

    def check(self) -> None:
        """Refuse what would fail after hours, or would measure another plan.

        Raises:
            ValueError: the plan has an impossible configuration, or `extra` sets a key of the plan.
        """
        plan, seed = self.plan, self.plan.seeds[0]
        sets = [plan.training_keys(seed), plan.evaluation_keys(seed), plan.sampling_keys(), plan.verifier_keys(seed)]
        check_overrides(plan.config, [(*keys, NO_VERIFIER) for keys in sets], self.extra)

    def run(self) -> None:
        """Everything that is not measured yet, `costs.jobs` at a time.

        Raises:
            ExceptionGroup: of the failures, after everything else.
        """
        jobs = [] if self.found.has(BASE, 0) else [partial(self._evaluate, BASE, 0)]
        jobs += [partial(self._run, *run) for run in self.plan.runs if not self.found.has(*run)]
        if not jobs:
            return
        self._first_verifier()
        if failures := do_all(jobs, self.plan.costs.jobs):
            raise ExceptionGroup("some runs failed; the same command does the missing ones", failures)

    def _first_verifier(self) -> None:
        """Samples of the base model and the verifier that is trained on them, unless they are there."""
        plan, began = self.plan, time.monotonic()
        if not self._samples.is_dir():
            new = self._samples.with_name("samples.new")
            shutil.rmtree(new, ignore_errors=True)
            model = ("--config", plan.config, "--checkpoint", plan.model, "--output", str(new))
            self.command("eval", *model, *plan.sampling_keys(), *self.extra)
            (new / SECONDS).write_text(str(time.monotonic() - began))
            new.rename(self._samples)
        first = self._verifier(BASE, 0, 0)
        verifiers.train(self.command, plan, first, [self._samples], seed=0, extra=self.extra)
        if self.found.courses.get(RunKey(BASE, 0)) is None:
            [file] = self._samples.glob("groups-*.parquet")
            seconds = np.array([float((self._samples / SECONDS).read_text())])
            answers, right, _ = answers_of_steps([file])
            spent = _spent([(0, first)])
            self.found.courses.add(
                {RunKey(BASE, 0): Course(answers, right, np.zeros(1, int), seconds, *spent, _name(first))}
            )

    def _run(self, name: str, seed: int) -> None:
        """Train one model, refreshing its verifier where the plan says so, deploy it, and remove the run."""
        before = Segment(0, 0)
        for segment in self.plan.segments(name):
            if segment.start:
                self._refresh(name, seed, before)
            self._train(name, seed, segment)
            before = segment
        self._refresh(name, seed, Segment(0, self.plan.steps))
        self._record(name, seed)
        self._evaluate(name, seed)
        shutil.rmtree(self._directory(name, seed))
        print(f"{name}, seed {seed}: measured", flush=True)

    def _train(self, name: str, seed: int, segment: Segment) -> None:
        """Train to the end of the segment, from the newest checkpoint if there is one."""
        plan, run = self.plan, self._directory(name, seed) / "run"
        reached = _reached(run)
        if reached >= segment.end:
            return
        last = (f"run.steps={segment.end}", f"task.scorer.path={self._verifier(name, seed, segment.start)}")
        if reached:
            self.command("train", "--resume", str(run), *last, *self.extra)
        else:
            shutil.rmtree(run, ignore_errors=True)  # a run that was interrupted before its first checkpoint
            place = (f"run.directory={run.parent}", f"run.name={run.name}")
            self.command("train", "--config", plan.config, *plan.training_keys(seed), *place, *last, *self.extra)
        if (reached := _reached(run)) != segment.end:
            raise RuntimeError(f"{run} ended at step {reached}, wanted {segment.end}")

    def _refresh(self, name: str, seed: int, segment: Segment) -> None:
        """Train the verifier of the segment's start further on the segment's groups and the first samples."""
        verifiers.train(
            self.command,
            self.plan,
            self._verifier(name, seed, segment.end),
            [self._samples, *_groups(self._directory(name, seed) / "run", segment)],
            seed=seed,
            earlier=self._verifier(name, seed, segment.start),
            extra=self.extra,
        )

    def _record(self, name: str, seed: int) -> None:
        """Store the course of a finished run."""
        plan, run = self.plan, self._directory(name, seed) / "run"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        seconds = np.array([row["time/step_s"] for row in rows if "time/step_s" in row])
        if len(seconds) != plan.steps:
            raise RuntimeError(f"{run / 'metrics.jsonl'} has {len(seconds)} steps, wanted {plan.steps}")
        steps = [segment.end for segment in plan.segments(name)]
        spent = _spent([(step, self._verifier(name, seed, step)) for step in steps])
        counts = answers_of_steps(_groups(run, Segment(0, plan.steps)))
        first = _name(self._verifier(BASE, 0, 0))
        self.found.courses.add({RunKey(name, seed): Course(*counts, seconds, *spent, first)})

    def _evaluate(self, model: str, seed: int) -> None:
        """Sample the model once, and score its answers with each of its verifiers."""
        plan, output = self.plan, self._directory(model, seed) / "evaluation"
        where = {FIRST: 0, LAST: plan.refreshes[-1], OWN: plan.steps}
        paths = {name: self._verifier(model, seed, where[name]) for name in plan.verifiers(model)}
        deployed = paths[FIRST] if model == BASE else paths[OWN]
        shutil.rmtree(output, ignore_errors=True)
        self.command(
            "eval",
            *("--config", plan.config, "--checkpoint", str(self._model(model, seed)), "--output", str(output)),
            *(*plan.evaluation_keys(seed), f"task.scorer.path={deployed}", *self.extra),
        )
        [file] = output.glob("groups-temperature-*.parquet")
        answers = verifiers.read_answers(file, plan)
        results = {}
        for name, path in paths.items():
            p_PN = self.score(path, answers)
            if path == deployed and (apart := float(np.abs(p_PN - answers.score_PN).max())) > SAME:
                raise RuntimeError(f"{file}: the recorded scores are not those of {path}; largest gap {apart:.4f}")
            results[Key(model, seed, name)] = scored(answers.right_PN, p_PN, plan.ks)
        self.found.evaluations.add(results)
        shutil.rmtree(output)

    @property
    def _samples(self) -> Path:
        return self.scratch / BASE / "samples"

    def _directory(self, name: str, seed: int) -> Path:
        return self.scratch / (BASE if name == BASE else f"{name}-seed{seed}")

    def _verifier(self, name: str, seed: int, step: int) -> Path:
        """The verifier that was trained after a step of the run; step 0: the first one, which all runs share."""
        return self._directory(name if step else BASE, seed) / f"verifier-{step:06d}"

    def _model(self, name: str, seed: int) -> Path:
        if name == BASE:
            return Path(self.plan.model)
        return self._directory(name, seed) / "run" / "checkpoints" / f"step-{self.plan.steps:06d}" / "huggingface"


def _reached(run: Path) -> int:
    """The step of the newest checkpoint of a run; 0: there is none."""
    newest = Checkpoints(run / "checkpoints").latest(contents=False).checkpoint
    return newest.step if newest else 0


def _groups(run: Path, segment: Segment) -> Iterator[Path]:
    """The files of the groups that a run was trained on in these steps."""
    return (run / "groups" / groups_file(step) for step in range(segment.start + 1, segment.end + 1))


def _spent(trained: list[tuple[int, Path]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, answers and seconds of the trainings of verifiers, [V]."""
    costs = [verifiers.cost_of(path) for _, path in trained]
    return (
        np.array([step for step, _ in trained]),
        np.array([cost.answers for cost in costs]),
        np.array([cost.seconds for cost in costs]),
    )


def _name(verifier: Path) -> str:
    """Tells verifiers apart: a hash of the card, which holds the test results."""
    return hashlib.sha256((verifier / CARD).read_bytes()).hexdigest()[:12]
