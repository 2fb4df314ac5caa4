"""Mixture-of-experts models through the sampler and the learner; docs/models.md has the other architectures.

vLLM packs experts for its CPU kernels, and transformers merges and renames them: an update once left the sampler
5 nats off without an error, and names that the sampler did not know ended the run at its first broadcast.
"""

from __future__ import annotations

import pytest

from benchmarks import model_support


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["Qwen3-MoE", "Mixtral", "gpt-oss"])
def test_sampler_and_learner_agree_after_every_kind_of_update(architecture, tmp_path):
    rows = tmp_path / "rows.jsonl"
    status = model_support.main([architecture, "--output", str(rows)])
    assert status == 0, rows.read_text()


def row(**changes: object) -> model_support.Support:
    figures = dict.fromkeys(("loaded", "unchanged", "perturbed", "restored", "trained", "exported"), 1e-6)
    return model_support.Support("Llama", **(figures | changes))


@pytest.mark.parametrize(
    "changes",
    [{"unchanged": 2e-5}, {"restored": float("inf")}, {"perturbed": 5.1}, {"trained": None}, {"error": "died"}],
)
def test_a_row_passes_only_when_every_check_does(changes):
    assert row().passed
    assert not row(**changes).passed


def test_an_unknown_architecture_is_refused(capsys):
    with pytest.raises(SystemExit):
        model_support.main(["Llamma"])
    assert "Llamma" in capsys.readouterr().err
