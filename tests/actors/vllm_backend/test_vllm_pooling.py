"""A learned verifier scores the same on vLLM as on transformers. In a process of its own: vLLM keeps global state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verifiers.learned.untrained import write_untrained_verifier

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from pathlib import Path
from actors.vllm_backend.pooling import VllmLogits
from verifiers.learned.classifier import TransformersLogits
directory = Path(sys.argv[1])
sequences = [[1, 5, 6, 7], [1, 9], list(range(1, 20)), [1, 4, 4]] * 10
engines = VllmLogits(directory, 128, gpus=0), TransformersLogits.load(directory, 128)
print(json.dumps([list(engine(sequences)) for engine in engines]))
"""


def run(directory: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(directory)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=200)


def test_both_engines_give_the_same_logits(tmp_path, repository):
    done = run(write_untrained_verifier(tmp_path / "verifier", repository / "models" / "countdown-base"), repository)
    assert done.returncode == 0, done.stderr
    vllm, transformers = json.loads(done.stdout.splitlines()[-1])
    assert len(vllm) == 40 and len({round(z, 3) for z in vllm}) == 4
    assert vllm == pytest.approx(transformers, abs=1e-4)


def test_a_classifier_that_vllm_cannot_serve_says_what_to_set(tmp_path, repository):
    verifier = write_untrained_verifier(tmp_path / "verifier", repository / "models" / "countdown-base")
    config = json.loads((verifier / "config.json").read_text())
    (verifier / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"], "model_type": "none"}))
    done = run(verifier, repository)
    assert done.returncode != 0 and "set task.scorer.engine: transformers" in done.stderr
