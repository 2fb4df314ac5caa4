"""A response as user code gets it: its text, its length, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

LENGTH = "length"  # the finish reason of a response that was cut off; that of the others is "stop"
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Response:
    """A response to a prompt.

    Attributes:
        text: As the verifier reads it, without the end token.
        tokens: Its number of tokens, with the end token.
        finish_reason: ``stop``, or ``length`` if it was cut off at ``rollout.max_response_tokens``.
    """

    text: str
    tokens: int
    finish_reason: str = "stop"

    @classmethod
    def unsampled(cls, text: str) -> Response:
        """A complete response that no model gave, such as that of a trial; its number of tokens is an estimate."""
        return cls(text, max(1, ceil(len(text) / _CHARACTERS_PER_TOKEN)))

    @property
    def truncated(self) -> bool:
        """Whether it was cut off."""
        return self.finish_reason == LENGTH
