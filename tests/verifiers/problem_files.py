"""Files of problems for tests."""

from __future__ import annotations

import json
from pathlib import Path


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(split: str, count: int) -> list[dict]:
    return [
        {
            "id": f"{split}/{i}",
            "problem": f"What is ${i}+1$?",
            "answer": str(i + 1),
            "level": str(1 + i % 5),
            "subject": "Algebra" if i % 2 else "Geometry",
        }
        for i in range(count)
    ]
