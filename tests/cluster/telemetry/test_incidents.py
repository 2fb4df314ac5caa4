"""Quarantined prompts: one evidence file each, which a resumed run reads."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cluster.errors import UsageError
from cluster.records.run_directory import RunDirectory
from tests.actors.fleet.test_rollout_pool import request

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


@pytest.fixture
def directory(tmp_path):
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        yield directory


def files_of(directory):
    from cluster.telemetry.incidents import QuarantineFiles

    said: list[str] = []
    return QuarantineFiles(directory, SimpleNamespace(message=said.append)), said


def quarantine_prompt(quarantine, purpose, sequence):
    from actors.fleet.quarantine import Failure, FailureHistory

    failures = [Failure("verifier-0 died", ("verifier-0", i)) for i in range(3)]
    quarantine.add(FailureHistory(request(sequence), purpose, 3, failures))


def test_training_and_evaluation_do_not_overwrite_each_other(directory):
    quarantine, said = files_of(directory)
    quarantine_prompt(quarantine, "training", 4)
    quarantine_prompt(quarantine, "evaluation", 4)
    assert (quarantine.count("training"), quarantine.count("evaluation")) == (1, 1)
    evidence = json.loads((directory.path / "quarantine" / "training-4.json").read_text())
    assert evidence["prompt_id"] == "p4" and evidence["failures"][1]["loss"] == ["verifier-0", 1]
    assert (directory.path / "quarantine" / "evaluation-4.json").is_file()
    assert "'p4' (training, position 4) is quarantined: actors failed 3 times" in said[0]


def test_a_resumed_run_remembers(directory):
    quarantine_prompt(files_of(directory)[0], "training", 4)
    resumed, said = files_of(directory)
    assert resumed.contains("training", "p4") and not resumed.contains("training", "p5")
    assert not resumed.contains("evaluation", "p4") and resumed.count("training") == 1
    resumed.report_skip("training", request(104))
    assert "position 104" in said[0] and "was skipped" in said[0]


def test_evidence_that_cannot_be_read_is_named(directory):
    quarantine_prompt(files_of(directory)[0], "training", 4)
    (directory.path / "quarantine" / "training-4.json").write_text("{")
    with pytest.raises(UsageError, match=r"training-4\.json cannot be read.*delete the file"):
        files_of(directory)


def test_warnings_are_printed_once_and_kept(directory):
    from cluster.telemetry.health import Warning
    from cluster.telemetry.incidents import Incidents, keep_warnings

    said: list[str] = []
    warning = Warning("truncated", 5, "97% of the samples were cut")
    Incidents(directory, SimpleNamespace(message=said.append)).warn(warning)
    keep_warnings(directory, [warning])
    assert said == ["warning: 97% of the samples were cut"]
    rows = [json.loads(line) for line in (directory.path / "incidents.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["name"], row["step"]) for row in rows] == [("warning", "truncated", 5)] * 2
