"""The main job as a user runs it: the real stack on this machine, a few optimizer steps at a time.

Silent bugs these pin: a run that is not reproducible, a resume that repeats or skips prompts or loses optimizer
state, samplers that keep old weights, metrics that never reach a dashboard.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from cluster.records.config_changes import recorded_config
from cluster.results import load_run
from tests.cluster.running import REPOSITORY, bonrl, command, environment, run_directory
from tests.verifiers.learned.untrained import write_untrained_verifier

pytestmark = pytest.mark.slow

STEPS, PROMPTS = 4, 4
SMALL = [
    f"run.steps={STEPS}",
    f"rollout.prompts_per_step={PROMPTS}",
    "rollout.n=8",
    "objective.k=4",
    "evaluation.prompts=16",
    "evaluation.n=4",
    "evaluation.every=0",
    "checkpoint.every=2",
]


def weights(output: str) -> str:
    match = re.search(r"^weights +([0-9a-f]{64})$", output, re.MULTILINE)
    assert match, output
    return match.group(1)


def metrics(directory: Path) -> list[dict]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "train/step" in row]


def trained_prompts(directory: Path) -> Counter:
    """(epoch, prompt) of every group that made a step's weights."""
    found: Counter = Counter()
    for path in sorted((directory / "groups").glob("step-*.parquet")):
        found.update((g["epoch"], g["prompt_id"]) for g in pq.read_table(path).to_pylist())
    return found


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A synchronous run of a few steps: its directory and its output."""
    base = tmp_path_factory.mktemp("golden")
    best = ["evaluation.every=2", "evaluation.keep_best=pass_at_k@4"]
    result = bonrl("train", *SMALL, *best, f"run.directory={base}", "run.name=golden")
    assert result.returncode == 0, result.stdout + result.stderr
    return run_directory(base), result.stdout


def test_the_run_describes_itself(golden):
    directory, output = golden
    rows = metrics(directory)
    assert [row["train/step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert row.get("logprob_gap/mean", 0.0) < 1e-4
        assert row["policy/lag_max"] == 0 and row["queue/staleness_max"] == 0
        assert row["sync/bytes"] > 0
    assert set(trained_prompts(directory).values()) == {1}
    assert len(trained_prompts(directory)) == STEPS * PROMPTS
    for name in ("config.yaml", "versions.json", "git.json", "model_weights.json", "summary.json"):
        assert (directory / name).is_file()
    run = load_run(directory)
    tokenizer = AutoTokenizer.from_pretrained(run.run_config.model.path)
    shares = run.series("groups/no_signal_share")[1]
    for step, share in zip(run.group_steps, shares, strict=True):
        groups = list(run.groups(step))
        texts = [(sample.response, sample.token_ids) for group in groups for sample in group.samples]
        assert all(text == tokenizer.decode(tokens, skip_special_tokens=True) for text, tokens in texts)
        assert share == np.mean([not any(sample.advantage for sample in group.samples) for group in groups])
        assert all(group.prompt and group.reference for group in groups)
    for actor in ("driver", "sampler-0", "verifier-0", "learner-rank-0", "replay-queue"):
        log = (directory / "logs" / f"{actor}.log").read_text()
        assert re.search(rf" INFO {actor} step \d+ \S+: started: process \d+ on .*Python 3", log), log
        assert actor == "verifier-0" or f" step {STEPS} " in log, log
    sampler = (directory / "logs" / "sampler-0.log").read_text()
    assert f" step {STEPS} actors.workers.sampler: weights {STEPS} received: " in sampler
    assert "pass@4 *" in output and "difference (paired)" in output and "objective pass@4 " in output
    assert "warning: " not in output.partition("run directory")[2], "a healthy run"
    assert json.loads((directory / "summary.json").read_text())["differences"].keys() == {"pass@1", "pass@2", "pass@4"}


def test_wandb_received_what_practitioners_look_for(golden):
    from tests.cluster.telemetry.wandb_reader import read_history

    directory, _ = golden
    history = read_history(directory / "wandb")
    names = {name for row in history for name in row}
    expected = {
        "reward/mean", "eval/pass@1", "eval/pass@4", "policy/entropy", "policy/kl_behaviour", "policy/clip_fraction",
        "policy/ratio_mean", "policy/lag_mean", "queue/depth", "throughput/sampled_tokens_per_s", "sync/seconds",
        "logprob_gap/mean", "optimizer/gradient_norm", "response/length_mean", "response/truncated_share",
        "groups/all_fail_share", "groups/all_pass_share", "groups/mixed_share",
    }  # fmt: skip
    assert expected <= names


def test_asynchronous_run_with_zero_3_ranks_and_the_object_store(tmp_path, repository):
    """S = 1, two ZeRO-3 ranks, weights through Ray's object store, two verifiers: every other way through the code."""
    verifier = write_untrained_verifier(tmp_path / "verifier", repository / "models" / "countdown-base")
    result = bonrl(
        "train", *SMALL, f"run.directory={tmp_path / 'runs'}", "queue.staleness=1", "learner.ranks=2",
        "learner.zero_stage=3", "learner.threads=1", "broadcast.transport=object_store", "broadcast.bucket_mib=1",
        "actors.verifiers=2", "objective.strategy=best_of_k", "task.scorer.kind=learned",
        f"task.scorer.path={verifier}", "schedule.learning_rate={shape: cosine, end: 0, over: 4}",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    directory = run_directory(tmp_path / "runs")
    rows = metrics(directory)
    assert len(rows) == STEPS
    (group, *_) = pq.read_table(next((directory / "groups").glob("step-*.parquet"))).to_pylist()
    assert len(set(group["score"])) > 2 and all(0 < score < 1 for score in group["score"]), "the classifier's scores"
    assert "eval/bo@4_low" in (directory / "metrics.jsonl").read_text()
    assert max(row["queue/staleness_max"] for row in rows) <= rows[0]["queue/staleness_bound"] == 1
    assert set(trained_prompts(directory).values()) == {1}
    assert len(trained_prompts(directory)) == STEPS * PROMPTS
    assert max(row["logprob_gap/mean"] for row in rows) < 1e-4, "measured at every step, though the groups are stale"

    again = bonrl("train", "--replay", str(directory), f"run.directory={tmp_path / 'again'}", config=None)
    assert again.returncode == 0, again.stdout + again.stderr
    assert weights(again.stdout) == weights(result.stdout), "the recorded groups make the same weights, bit by bit"


def test_a_run_that_cannot_learn_says_so_while_it_runs_and_at_its_end(tmp_path):
    """Two tokens hold no answer: every sample is cut and no group has a signal."""
    result = bonrl(
        "train", *SMALL, f"run.directory={tmp_path}", "run.steps=6", "rollout.max_response_tokens=2",
        "evaluation.at_start=false", "evaluation.at_end=false",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    running, _, ending = result.stdout.partition("done: 6 steps")
    for part, window in ((running, "the last 5 steps"), (ending, "over all 6 steps")):
        assert f"warning: {window}: 100% of the samples were cut at rollout.max_response_tokens = 2" in part
        assert f"warning: {window}: 100% of the groups gave no training signal" in part
    directory = run_directory(tmp_path)
    incidents = [json.loads(line) for line in (directory / "incidents.jsonl").read_text().splitlines()]
    assert {"truncated", "no_signal"} <= {row["name"] for row in incidents if row["kind"] == "warning"}
    assert len(json.loads((directory / "summary.json").read_text())["warnings"]) >= 2


def test_recorded_groups_are_those_of_a_run_and_can_be_trained_from(golden, tmp_path):
    """The first step's groups are the golden run's, for both are sampled by the base model."""
    recorded = bonrl("train", *SMALL, "--rollout-only", f"run.directory={tmp_path / 'recorded'}")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    directory = run_directory(tmp_path / "recorded")
    assert f"bonrl train --replay {directory}" in recorded.stdout
    assert set(trained_prompts(directory).values()) == {1} and len(trained_prompts(directory)) == STEPS * PROMPTS
    first, golden_first = (
        pq.read_table(d / "groups" / "step-000001.parquet", columns=["response_tokens", "reward"])
        for d in (directory, golden[0])
    )
    assert first.equals(golden_first)
    replayed = bonrl("train", "--replay", str(directory), f"run.directory={tmp_path / 'replayed'}", config=None)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert len(metrics(run_directory(tmp_path / "replayed"))) == STEPS


def test_a_checkpoint_evaluates_like_the_run_that_wrote_it(golden):
    directory, output = golden
    best = json.loads((directory / "best.json").read_text())
    summary = json.loads((directory / "summary.json").read_text())
    assert best == summary["best"] and f"best    step {best['step']}, pass_at_k@4 {best['value']:.3f}" in output
    result = bonrl("eval", "--checkpoint", str(directory), "--best", "--json", "-t", "1", "-t", "0", config=None)
    assert result.returncode == 0, result.stdout + result.stderr
    sampled, greedy = json.loads(result.stdout)["evaluations"]
    [then] = [row for row in summary["evaluations"] if row["evaluation/step"] == best["step"]]
    assert sampled["eval/pass@4"] == pytest.approx(then["eval/pass@4"]) == pytest.approx(best["value"])
    assert then["eval/pass@4"] == max(r["eval/pass@4"] for r in summary["evaluations"] if r["evaluation/step"])
    assert greedy["n"] == 1 and greedy["curves"].keys() == {"pass_at_k", "mean"}


def test_an_export_answers_text_as_it_was_trained(golden, tmp_path):
    """Plain transformers, from text, on what `bonrl export` wrote: pass@1 is that of the model, which 4 steps of so
    small a rate hardly move (its card: 0.165). Without the BOS that the tokenizer puts first it would not be."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from verifiers import TaskSettings, make_task
    from verifiers.verdict import Status

    out = tmp_path / "model"
    assert bonrl("export", "--checkpoint", str(golden[0]), "--to", str(out), config=None).returncode == 0
    assert {file.stat().st_mode & 0o777 for file in out.iterdir()} == {0o644}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    task = make_task(TaskSettings())
    prompts = task.prompts("test")[:256]
    texts = [prompt.text for prompt in prompts]
    first = pq.read_table(golden[0] / "groups" / "evaluation-000000.parquet").to_pylist()
    recorded = {row["prompt_id"]: row["prompt_tokens"] for row in first}
    sent = {prompt.id: tokenizer(prompt.text).input_ids for prompt in prompts if prompt.id in recorded}
    assert sent == recorded, "the ids that the samplers got"

    def pass_at_1(**options: bool) -> tuple[float, float]:
        torch.manual_seed(0)
        inputs = tokenizer(texts, padding=True, return_tensors="pt", **options)
        inputs.pop("token_type_ids", None)
        tokens = model.generate(**inputs, max_new_tokens=28, do_sample=True, num_return_sequences=8)
        responses = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right = [task.verify(prompts[i // 8], text).status is Status.CORRECT for i, text in enumerate(responses)]
        per_prompt = torch.tensor(right, dtype=torch.float64).view(-1, 8).mean(1)
        return per_prompt.mean().item(), 1.96 * per_prompt.std().item() / len(per_prompt) ** 0.5

    value, margin = pass_at_1()
    assert abs(value - 0.165) < margin + 0.011, (value, margin)
    bare, margin = pass_at_1(add_special_tokens=False)
    assert bare + margin < 0.155, (bare, margin)


def test_resuming_gives_the_weights_of_the_run_that_never_stopped(tmp_path: Path):
    """On a mixture with KL: what changes with the step and what is stored next to the model must survive it too."""
    keys = [
        *SMALL, "objective.weight=0.7", "objective.mixture=[{strategy: mean, k: 1, weight: 0.3}]",
        "schedule.k_by_entropy={points: [[0.4, 3], [0.8, 1]], window: 4}", "schedule.n={shape: steps, at: {3: 6}}",
        "schedule.temperature={end: 0.8, over: 4}", "loss.kl_coefficient=0.05", "loss.kl_refresh_every=2",
        "loss.entropy_coefficient=0.01", "schedule.learning_rate={end: 0, over: 4}",
        "evaluation.at_start=false", "evaluation.at_end=false",
        f"run.directory={tmp_path}",
    ]  # fmt: skip
    whole = bonrl("train", *keys, "run.name=whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    rows = metrics(tmp_path / "whole")
    assert rows[0]["policy/kl_reference"] < 1e-6 < rows[1]["policy/kl_reference"], "the run leaves its reference"
    assert all(row["logprob_gap/mean"] < 1e-4 for row in rows), "the learner follows the temperature"
    sizes = [len(g["reward"]) for path in sorted((tmp_path / "whole" / "groups").glob("step-*")) for g in
             pq.read_table(path).to_pylist()]  # fmt: skip
    assert sizes == [8] * (3 * PROMPTS) + [6] * PROMPTS
    rates = [row["optimizer/learning_rate"] for row in rows]
    assert rates == pytest.approx([3e-5 * (step + 1) / 5 * (4 - step) / 4 for step in range(STEPS)]), "warm-up x decay"
    assert rows[0]["objective/k"] == 4 > max(row["objective/k"] for row in rows[1:]), "the entropy moves k"
    cut = Path(shutil.copytree(tmp_path / "whole", tmp_path / "other" / "cut"))
    shutil.rmtree(cut / "checkpoints" / f"step-{STEPS:06d}")
    resumed = bonrl("train", "--resume", str(cut), "deadlines.checkpoint_s=77", config=None)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert weights(resumed.stdout) == weights(whole.stdout)
    assert recorded_config(cut).deadlines.checkpoint_s == 77, "a later resume keeps the override"
    (changed,) = (cut / "config_changes.jsonl").read_text().splitlines()
    assert list(json.loads(changed)["changes"]) == ["deadlines.checkpoint_s"]
    assert [row["train/step"] for row in metrics(cut)] == list(range(1, STEPS + 1))
    times = [row["time/s"] for row in metrics(cut)]
    assert times == sorted(times), "the clock of the run continues after a resume"
    assert trained_prompts(cut) == trained_prompts(tmp_path / "whole")


def test_samplers_that_get_adapters_agree_with_the_learner_also_after_a_resume(tmp_path: Path):
    lora = "learner.lora={rank: 4, alpha: 8, send: adapters}"
    keys = [*SMALL, lora, "learner.learning_rate=1e-3", "evaluation.at_start=false", "evaluation.at_end=false"]
    whole = bonrl("train", *keys, f"run.directory={tmp_path}", "run.name=whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    rows = metrics(tmp_path / "whole")
    assert all(row["logprob_gap/max"] < 1e-4 for row in rows)
    adapter = tmp_path / "whole" / "checkpoints" / f"step-{STEPS:06d}" / "adapter" / "adapter_model.safetensors"
    assert any(factor.any() for name, factor in load_file(adapter).items() if ".lora_B." in name)
    assert 0 < rows[0]["sync/bytes"] < 1.1 * adapter.stat().st_size, "nothing but the adapters is sent"
    cut = Path(shutil.copytree(tmp_path / "whole", tmp_path / "other" / "cut"))
    shutil.rmtree(cut / "checkpoints" / f"step-{STEPS:06d}")
    resumed = bonrl("train", "--resume", str(cut), config=None)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert weights(resumed.stdout) == weights(whole.stdout)
    assert all(row["logprob_gap/max"] < 1e-4 for row in metrics(cut))


def own_rows(directory: Path) -> list[str]:
    """Overrides for a file of problems with solutions in the signs that the shipped model knows."""
    rows = [{"problem": f"{n}+1=", "answer": str(n + 1), "solution": f"{n + 1}"} for n in range(40)]
    (directory / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    files = f"{{train: {directory}/own.jsonl, solution: solution}}"
    return ["task.name=jsonl", "task.instruction=''", "task.validation_size=0", f"task.jsonl={files}",
            "evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false"]  # fmt: skip


def test_sft_imitates_on_every_rank_and_continues_after_a_kill(tmp_path: Path):
    """Two ranks; the interrupted imitation loses a step that no checkpoint holds, and ends with the same weights."""
    arguments = ["sft", "--steps", "6", "--batch-size", "8", "--learning-rate", "1e-2", *own_rows(tmp_path),
                 "learner.ranks=2", "learner.zero_stage=1", "learner.threads=1", "checkpoint.every=2"]  # fmt: skip
    whole = bonrl(*arguments, "--output", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "demonstrations: 40 (the verifier judges 0 of 40 checked demonstrations wrong" in whole.stdout
    assert re.search(r"step 6/6  loss ([\d.]+)", whole.stdout)
    assert not (tmp_path / "whole.partial").exists()

    cut, checkpoint = tmp_path / "cut", tmp_path / "cut.partial" / "run" / "checkpoints" / "step-000002"
    with subprocess.Popen([*command(*arguments), "--output", str(cut)], cwd=REPOSITORY, env=environment()) as process:
        while not checkpoint.is_dir():
            assert process.poll() is None, "it ended before its first checkpoint"
            time.sleep(0.05)
        process.kill()
    resumed = bonrl("sft", "--output", str(cut), "--resume", config=None)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming after step" in resumed.stdout
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert models[0] == models[1]


def test_bon_sft_imitates_on_the_main_jobs_actors_with_adapters(tmp_path: Path):
    arguments = ["--steps", "2", "--batch-size", "4", "--learning-rate", "1e-4", "--output", str(tmp_path / "model")]
    small = ["rollout.n=8", "objective.k=4", "evaluation.at_start=false", "evaluation.at_end=false"]
    small += [*own_rows(tmp_path), "learner.lora={rank: 4, targets: [q_proj, v_proj]}"]
    result = bonrl("sft", "--objective", "bon_sft", *arguments, *small, f"run.directory={tmp_path / 'runs'}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").is_file()
    rows = metrics(run_directory(tmp_path / "runs"))
    assert rows[0]["optimizer/gradient_norm"] > 0
    assert rows[0]["batch/sequences"] >= 4, "a demonstration of each group at least"
    assert rows[1]["logprob_gap/max"] < 1e-4, "samplers have the merged weights"
    assert rows[0]["sync/bytes"] < 2.5e6, "the attention of a model of 7e6 bytes"

    again = bonrl("train", "--replay", str(run_directory(tmp_path / "runs")), f"run.directory={tmp_path / 'again'}",
                  config=None)  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert weights(again.stdout) == weights(result.stdout), "adapters too are trained the same, bit by bit"
