"""Leaves out prompts and demonstrations that are longer than the limit for them, or refuses them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cluster.config import RunConfig
from cluster.errors import UsageError

T = TypeVar("T")


def fitting(config: RunConfig, what: str, sized: Iterable[tuple[T, int, str]], key: str, limit: int) -> list[T]:
    """The items of at most `limit` tokens.

    Args:
        what: What the items are, in the plural.
        sized: Each item with its number of tokens and the id of its problem.
        key: The setting that gives `limit`.

    Raises:
        UsageError: none is short enough, or some are not and ``task.drop_overlong`` is off.
    """
    kept: list[T] = []
    overlong: list[tuple[int, str]] = []
    for item, tokens, problem in sized:
        if tokens <= limit:
            kept.append(item)
        else:
            overlong.append((tokens, problem))
    if overlong and not config.task.drop_overlong:
        most, longest = max(overlong)
        raise UsageError(
            f"{len(overlong):,} of {len(kept) + len(overlong):,} {what} are longer than {key} = {limit}, the longest, "
            f"{longest!r}, with {most:,} tokens: raise it, or set task.drop_overlong=true to leave them out"
        )
    if not kept:
        raise UsageError(f"all {len(overlong):,} {what} are longer than {key} = {limit}: raise it")
    return kept
