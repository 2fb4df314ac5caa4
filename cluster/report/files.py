"""Where the files of a run are, and commands to continue from it."""

from __future__ import annotations

import shlex

from cluster.records.next_command import train_again
from cluster.report.source import Source

_MEANING = {
    "config.yaml": "the resolved configuration",
    "config_changes.jsonl": "settings that resumes changed, one JSON object a line",
    "metrics.jsonl": "every metric of every step, one JSON object a line",
    "groups": "graded groups as Parquet, a file for each step and evaluation",
    "checkpoints": "models, optimizer and queue",
    "incidents.jsonl": "warnings and lost actors, with the end of their logs",
    "quarantine": "prompts that crash actors, with the evidence",
    "summary.json": "what the run ended with",
    "versions.json": "versions, machine, command",
    "wandb": "wandb's own files",
}


def files(source: Source) -> list[dict[str, str]]:
    """The parts of the run directory that exist."""
    found = []
    for name, meaning in _MEANING.items():
        path = source.path / name
        if path.exists():
            found.append({"path": str(path), "name": name, "meaning": meaning})
    return found


def commands(source: Source) -> list[dict[str, str]]:
    """What a reader does next, as lines for a shell."""
    run = shlex.quote(str(source.path))
    found = []
    if source.summary.get("recorded_only"):
        found.append({"title": "train on the recorded groups", "line": train_again("--replay", source.path)})
    elif source.resumable and not source.running:
        finished = bool(source.summary)
        more = [f"run.steps={2 * int(source.value('run.steps', 0) or 1)}"] if finished else []
        title = "train it for more steps" if finished else "continue it"
        found.append({"title": title, "line": train_again("--resume", source.path, *more)})
    if any((source.path / "checkpoints").glob("step-*/huggingface")):
        found += [
            {"title": "export the model", "line": f"bonrl export --checkpoint {run} --to my-model"},
            {"title": "evaluate it", "line": f"bonrl eval --checkpoint {run} evaluation.split=test --n 64"},
        ]
    found += [
        {"title": "compare it with another run", "line": f"bonrl compare {run} OTHER_RUN"},
        {"title": "watch it", "line": f"bonrl report {run} --live"},
    ]
    return found
