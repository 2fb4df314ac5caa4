"""Splits the problems of GSM8K for the plans `gsm8k.yaml` and `gsm8k-small.yaml`.

    python -m benchmarks.frontier.gsm8k_split DATA runs/gsm8k
    python -m benchmarks.frontier.gsm8k_split DATA runs/gsm8k-short --most-calculations 2

DATA holds gsm8k_train.jsonl and gsm8k_test.jsonl (docs/data.md). `sft/` gets 4,561 training problems for supervised
fine-tuning, `rl/` the other 2,912, of which a run holds 512 out for validation, and 660 of the 1,319 test problems. A
hash of the problems decides, so the split never changes. `--most-calculations` then keeps only problems whose worked
solution has one to that many calculations (GSM8K marks them as `<<48/2=24>>`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

SFT_PROBLEMS, TEST_PROBLEMS = 4561, 660


def by_hash(lines: list[str]) -> list[str]:
    """Lines of JSON in the order of a hash of their problems."""

    def order(line: str) -> bytes:
        row = json.loads(line)
        return hashlib.sha256(f"bonrl-frontier {row.get('problem') or row['question']}".encode()).digest()

    return sorted(lines, key=order)


def is_short(line: str, most_calculations: int) -> bool:
    """Whether the worked solution has one to `most_calculations` marked calculations."""
    return 1 <= json.loads(line)["solution"].count("<<") <= most_calculations


def split(
    data: Path,
    output: Path,
    most_calculations: int | None = None,
    sft_problems: int = SFT_PROBLEMS,
    test_problems: int = TEST_PROBLEMS,
) -> None:
    """Write the files of `sft/` and `rl/`.

    Raises:
        ValueError: there are too few problems.
    """
    train, test = (by_hash(_lines(data / f"gsm8k_{name}.jsonl")) for name in ("train", "test"))
    if len(train) <= sft_problems or len(test) < test_problems:
        raise ValueError(f"{data} has {len(train)} training and {len(test)} test problems: too few for the plan")
    for folder, problems in (("sft", train[:sft_problems]), ("rl", train[sft_problems:])):
        (output / folder).mkdir(parents=True, exist_ok=True)
        for name, part in (("train", problems), ("test", test[:test_problems])):
            kept = [line for line in part if most_calculations is None or is_short(line, most_calculations)]
            text = "".join(line + "\n" for line in kept)
            (output / folder / f"gsm8k_{name}.jsonl").write_text(text, encoding="utf-8")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--most-calculations", type=int, help="of a problem's worked solution [any number]")
    options = parser.parse_args()
    split(options.data, options.output, options.most_calculations)
