"""best.json in a run directory: the evaluated step that is best by ``evaluation.keep_best``, and its checkpoint.

The file is replaced atomically after the checkpoint that it names is complete and before older checkpoints are deleted,
so it always names a checkpoint that is there, also after a crash. A resumed run derives it again from metrics.jsonl.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import UsageError

FILE = "best.json"


@dataclass(frozen=True)
class Best:
    """The best evaluated step of a run.

    metric: as in ``evaluation.keep_best``. key: its name in metrics.jsonl. value, low, high: at `step`, with the 95 %
    interval over prompts; None for a metric without one. split: of the evaluation's prompts. checkpoint: relative to
    the run directory. evaluations: number of evaluated steps among which it is the best.
    """

    metric: str
    key: str
    step: int
    value: float
    low: float | None
    high: float | None
    split: str
    checkpoint: str
    evaluations: int

    @property
    def selected_on_test(self) -> bool:
        """Whether its value is biased upwards, because the step was chosen on the prompts that measure it."""
        return self.split == "test"

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"selected_on_test": self.selected_on_test}

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"step {self.step}, {self.metric} {self.value:.3f}{interval}"


def read_best(run: Path) -> Best | None:
    """What best.json of a run directory says; None where there is none.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
        found.pop("selected_on_test", None)
        return Best(**found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{run / FILE} cannot be read: {error}; name the checkpoint itself") from error
