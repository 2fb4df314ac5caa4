"""Finds problems of a split whose text is that of another one."""

from __future__ import annotations

from collections.abc import Sequence

from verifiers.task import Prompt


def same_text(prompt: Prompt) -> str:
    """The text by which problems are compared: white space does not count."""
    return " ".join(prompt.transcript.split())


def without_duplicates(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first problem of each text."""
    kept: dict[str, Prompt] = {}
    for prompt in prompts:
        kept.setdefault(same_text(prompt), prompt)
    return list(kept.values())


def duplicates_message(prompts: Sequence[Prompt]) -> str:
    """One sentence with the number of problems that repeat an earlier text, and of those with another answer; empty if
    there are none."""
    first: dict[str, Prompt] = {}
    repeated = conflicting = 0
    example: tuple[Prompt, Prompt] | None = None
    for prompt in prompts:
        earlier = first.setdefault(same_text(prompt), prompt)
        if earlier is prompt:
            continue
        differs = prompt.reference.get("answer") != earlier.reference.get("answer")
        if example is None or (differs and not conflicting):
            example = (earlier, prompt)
        repeated += 1
        conflicting += differs
    if example is None:
        return ""
    other = f", {conflicting:,} of them with another answer" if conflicting else ""
    return (
        f"{repeated:,} of {len(prompts):,} problems repeat the text of an earlier one{other} (such as {example[1].id} "
        f"and {example[0].id})"
    )
