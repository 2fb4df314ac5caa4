"""Finds problems that are in both the training and the evaluation prompts, by normalized text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from verifiers.task import Prompt

SHINGLE = 13
"""Number of consecutive words that overlapping problems share (Brown et al. 2020, arXiv 2005.14165, appendix C)."""

EXAMPLES = 5  # that are shown

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Contamination:
    """Number of evaluation problems that are also training problems.

    Attributes:
        evaluated: Number of evaluation problems.
        same_text: Those with the normalized text of a training problem.
        overlapping: Those that share 13 consecutive words with a training problem, identical ones included; phrases in
            several training problems, such as instructions, do not count.
        examples: Up to EXAMPLES pairs (evaluation id, training id), identical texts first.
    """

    evaluated: int
    same_text: int
    overlapping: int
    examples: tuple[tuple[str, str], ...]


def normalized(text: str) -> tuple[str, ...]:
    """A problem's words: lower case, unicode folded, no punctuation, no spaces."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def contamination(train: Iterable[Prompt], evaluation: Iterable[Prompt], *, instruction: str = "") -> Contamination:
    """Compare the prompts of two splits, in time linear in the number of words.

    Args:
        train: Training problems.
        evaluation: Evaluation problems.
        instruction: Text at the end of every prompt, removed before the comparison.
    """

    def words(prompt: Prompt) -> tuple[str, ...]:
        return normalized(prompt.transcript.removesuffix(instruction))

    texts: dict[tuple[str, ...], str] = {}
    shingles: dict[tuple[str, ...], str] = {}
    common: set[tuple[str, ...]] = set()
    for prompt in train:
        text = words(prompt)
        texts.setdefault(text, prompt.id)
        for shingle in {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}:
            if shingles.setdefault(shingle, prompt.id) != prompt.id:
                common.add(shingle)
    same_text = overlapping = evaluated = 0
    exact_examples: list[tuple[str, str]] = []
    near_examples: list[tuple[str, str]] = []
    for prompt in evaluation:
        evaluated += 1
        text = words(prompt)
        if text in texts:
            same_text += 1
            overlapping += 1
            exact_examples.append((prompt.id, texts[text]))
            continue
        windows = (text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1))
        shared = next((window for window in windows if window in shingles and window not in common), None)
        if shared is not None:
            overlapping += 1
            near_examples.append((prompt.id, shingles[shared]))
    return Contamination(evaluated, same_text, overlapping, tuple((exact_examples + near_examples)[:EXAMPLES]))
