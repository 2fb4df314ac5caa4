"""What a run says about evaluation problems that are also training problems."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.config import RunConfig
from verifiers.task import Prompt
from verifiers.tasks.contamination import SHINGLE, contamination

_FEW = 0.01  # of the evaluation problems: public sets repeat as many


def contamination_lines(
    config: RunConfig, training: Sequence[Prompt], held_out: Sequence[Prompt]
) -> tuple[list[str], list[str]]:
    """A line with how many evaluation prompts are also training prompts, and examples; a warning if they are not few.

    Neither if the run evaluates nothing, or on purpose the training prompts.
    """
    if not held_out or config.evaluation.split == "train":
        return [], []
    found = contamination(training, held_out, instruction=config.task.instruction)
    line = (
        f"contamination: {found.same_text} of {found.evaluated} evaluation prompts are also training prompts, "
        f"{found.overlapping} share a passage of {SHINGLE} words with one"
    )
    pairs = ", ".join(f"{evaluation} and {trained}" for evaluation, trained in found.examples)
    warnings = []
    if found.same_text > _FEW * found.evaluated:
        warnings.append(
            f"{found.same_text} of {found.evaluated} evaluation prompts are also training prompts, so evaluations tell "
            "little about new ones; leave them out of the training problems, or evaluate others"
        )
    return [f"{line}: {pairs}" if pairs else line], warnings
