"""Fine-tunes, samples and judges."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks.commands import bonrl
from benchmarks.planned.plan import check_overrides
from benchmarks.programs.counts import Counts, Key, Store
from benchmarks.programs.plan import AFTER, BEFORE, Plan
from cluster.config import load_config
from verifiers.task import Prompt
from verifiers.tasks.mbpp import FILES
from verifiers.tasks.registry import make_task
from verifiers.verdict import Status

GRADERS = 2  # programs judged at a time


@dataclass(frozen=True)
class Stages:
    """Runs the plan.

    Args:
        data: directory of the problem files.
        scratch: for the fine-tuned model and the evaluations.
        command: runs `bonrl`; a parameter for tests.
        extra: overrides for this machine, such as `sampler.threads`.
    """

    plan: Plan
    store: Store
    data: Path
    scratch: Path
    command: Callable[..., None] = bonrl
    extra: tuple[str, ...] = ()

    def run(self) -> None:
        """Everything that is not measured yet."""
        for task in self.plan.tests:
            for model in (BEFORE, AFTER):
                if self.store.get(Key(model, task)) is None:
                    self._measure(model, task)
                    print(f"{model} fine-tuning, {task}: measured", flush=True)

    def check(self) -> None:
        """Refuse what would fail later, or would measure another plan.

        Raises:
            ValueError: the plan has an impossible configuration, `extra` sets a key of the plan, or files are missing.
        """
        sets = [self._tuning_keys(), *(self._test_keys(task) for task in self.plan.tests)]
        check_overrides(self.plan.config, sets, self.extra)
        for task in self.plan.tests:  # reads the problem files
            prompts = make_task(load_config(self.plan.config, self._test_keys(task)).task).prompts("test")
            if len(prompts) < self.plan.tests[task].prompts:
                raise ValueError(f"{self.data}: {len(prompts)} test problems of {task}, fewer than the plan has")

    def _tuning_keys(self) -> list[str]:
        return [*self.plan.common, *self.plan.fine_tuning.keys, f"task.path={self.data}"]

    def _test_keys(self, task: str) -> list[str]:
        test = ["evaluation.split=test", f"evaluation.prompts={self.plan.tests[task].prompts}"]
        return [*self.plan.common, f"task.name={task}", f"task.path={self.data}", *test]

    def _model(self, model: str) -> Path:
        """The directory of a model; fine-tunes it if it is not there."""
        if model == BEFORE:
            return Path(self.plan.model)
        directory, tuning = self.scratch / "fine-tuned", self.plan.fine_tuning
        if not directory.is_dir():
            self.command(
                *("sft", "--config", self.plan.config, "--output", str(directory), f"model.path={self.plan.model}"),
                *(*self._tuning_keys(), *self.extra),
                *("--steps", str(tuning.steps), "--batch-size", str(tuning.batch_size)),
                *("--learning-rate", f"{tuning.learning_rate:g}"),
            )
        return directory

    def _measure(self, model: str, task: str) -> None:
        directory, output = self._model(model), self.scratch / f"{model}-{task}"
        shutil.rmtree(output, ignore_errors=True)
        started = time.perf_counter()
        self.command(
            *("eval", "--config", self.plan.config, "--checkpoint", str(directory), "--output", str(output)),
            *("--n", str(self.plan.tests[task].n), "-t", f"{self.plan.temperature:g}"),
            *(*self._test_keys(task), *self.extra),
        )
        seconds = time.perf_counter() - started
        (file,) = output.glob("groups-temperature-*.parquet")
        groups = parquet.read_table(file).sort_by("sequence")
        self.store.add({Key(model, task): self._counts(task, groups, seconds)})

    def _counts(self, task: str, groups: pa.Table, seconds: float) -> Counts:
        verdicts = groups["verdict"].to_pylist()
        failed = sum(row.count(Status.VERIFIER_ERROR.value) for row in verdicts)
        if failed or len(verdicts) != self.plan.tests[task].prompts:
            raise RuntimeError(f"{task}: {len(verdicts)} problems, {failed} answers that the sandbox could not judge")
        return Counts(
            samples=len(verdicts[0]),
            right_P=np.array([row.count(Status.CORRECT.value) for row in verdicts]),
            shown_P=self._shown(groups) if task == "mbpp" else None,
            programs=sum(len(row) - row.count(Status.UNPARSABLE.value) for row in verdicts),
            truncated=sum(row.count("length") for row in groups["finish_reason"].to_pylist()),
            tokens=sum(len(tokens) for row in groups["response_tokens"].to_pylist() for tokens in row),
            sample_seconds=seconds,
            verify_seconds=float(sum(sum(row) for row in groups["verify_seconds"].to_pylist())),
        )

    def _shown(self, groups: pa.Table) -> np.ndarray:
        """By problem, the number of answers that pass the test in the prompt, int[P]."""
        directory = self.scratch / "shown"
        _write_shown_tests(self.data, directory)
        keys = [*self.plan.common, "task.name=mbpp", f"task.path={directory}"]
        settings = load_config(self.plan.config, keys).task
        with closing(make_task(settings)) as task, ThreadPoolExecutor(GRADERS) as graders:
            prompts = {prompt.id: prompt for prompt in task.prompts("test")}

            def passes(prompt: Prompt, response: str) -> bool:
                verdict = task.verify(prompt, response)
                if verdict.status is Status.VERIFIER_ERROR:
                    raise RuntimeError(f"{prompt.id}: the sandbox could not judge an answer: {verdict.detail}")
                return verdict.status is Status.CORRECT

            rows = zip(groups["prompt_id"].to_pylist(), groups["response_text"].to_pylist(), strict=True)
            judged = [[graders.submit(passes, prompts[name], text) for text in texts] for name, texts in rows]
            return np.array([sum(one.result() for one in row) for row in judged])


def _write_shown_tests(data: Path, directory: Path) -> None:
    """The files of MBPP, each problem with the one test that its prompt shows (`task.shown_tests` is 1)."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in set(FILES.values()):
        rows = [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines() if line]
        shown = [json.dumps(row | {"tests": row["tests"][:1]}) for row in rows]
        (directory / name).write_text("\n".join(shown) + "\n", encoding="utf-8")
