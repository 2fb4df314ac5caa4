"""Peak memory and tokens/s of the learner with a large vocabulary: logits at once, in chunks, packed.

    python -m benchmarks.learner_memory [--vocabulary 151936] [--budget 4096] [--prompt 64] [--response 192]

Each form trains the same sequences in a process of its own. The peak is that of the process (VmHWM) during the steps,
with weights and optimizer; "step" leaves out what the process held before the first step. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.learner import NORMALISER, free_port, make_sequences

LIMIT_SECONDS = 540.0
FORMS: dict[str, dict[str, Any]] = {
    "all logits at once": {"logits_chunk_mib": None},
    "in chunks": {},
    "in chunks, packed": {"packing": True},
    "in chunks, activation checkpointing": {"activation_checkpointing": True},
}


def save_model(directory: Path, vocabulary: int, width: int, layers: int) -> None:
    """A random Llama with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


def memory_kib(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(arguments: argparse.Namespace, form: str) -> dict[str, float]:
    """Train in this process; memory in MiB and tokens/s."""
    from learner.engine import Engine
    from learner.settings import LearnerSettings, LossSettings

    learner = LearnerSettings(
        tokens_per_micro_batch=arguments.budget, threads=arguments.threads, warmup_steps=0, **FORMS[form]
    )
    engine = Engine(arguments.model, learner=learner, loss=LossSettings(), master_port=free_port())
    sequences = make_sequences(arguments.sequences, arguments.prompt, arguments.response, arguments.vocabulary)
    engine.train_step(sequences[:1], NORMALISER, 0)  # makes the optimizer's state
    before = memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    seconds = []
    for step in range(arguments.repeats):
        started = time.perf_counter()
        metrics = engine.train_step(sequences, NORMALISER, step + 1)
        seconds.append(time.perf_counter() - started)
    peak = memory_kib("VmHWM")
    engine.close()
    return {
        "peak": peak / 1024,
        "step": (peak - before) / 1024,
        "rate": metrics["batch/tokens"] / statistics.median(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="size of the vocabulary")
    parser.add_argument("--width", type=int, default=128, help="hidden size of the random model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--budget", type=int, default=4096, help="learner.tokens_per_micro_batch")
    parser.add_argument("--sequences", type=int, default=20, help="sequences per optimizer step")
    parser.add_argument("--prompt", type=int, default=64, help="prompt tokens")
    parser.add_argument("--response", type=int, default=192, help="longest response, tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        print(json.dumps(measure(arguments, arguments.form)))
        return
    print(
        "| logits | peak MiB | of it the step's | peak ÷ at once | step's ÷ at once | tokens/s | tokens/s ÷ at once |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="bonrl-learner-") as directory:
        save_model(Path(directory), arguments.vocabulary, arguments.width, arguments.layers)
        first: dict[str, float] = {}
        for form in FORMS:
            command = [sys.executable, "-m", "benchmarks.learner_memory", *sys.argv[1:]]
            command += ["--form", form, "--model", directory]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            first = first or row
            ratio = {key: row[key] / first[key] for key in row}
            print(
                f"| {form} | {row['peak']:,.0f} | {row['step']:,.0f} | {ratio['peak']:.2f} | {ratio['step']:.2f} "
                f"| {row['rate']:,.0f} | {ratio['rate']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
