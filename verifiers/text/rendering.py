"""Renders the text of a problem to token ids, in the same way for all of bonrl.

Training, evaluation, imitation, learned verifiers and the export all use :class:`PromptRenderer`. A chat template is a
program that comes with the model: it may require or forbid a system turn, read the content of a turn as text or as a
list of parts, ask for today's date, or fail. In all cases the problem's text must be in the result.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from verifiers.task import ROLES, Prompt

Turn = tuple[str, str]  # role and content
# Roles whose content is sent as a list of parts.
_PARTS_OF_TURNS = ((), ("user",), ("system", "user"), ("system",), ("user", "assistant"), ROLES)
_END_OF_REASONING = "</think>"
_PRINTED_PARTS = "{'type': 'text', 'text': "


class PromptSettings(Protocol):
    """How prompts are rendered: keys of the section ``task``."""

    @property
    def template(self) -> str: ...
    @property
    def system_prompt(self) -> str | None: ...
    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def date(self) -> dt.date | None: ...


@dataclass(frozen=True)
class PromptFormat:
    """Settings of rendering without a task; the fields are those of the section ``task``."""

    template: str = "plain"
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: dt.date | None = None


@dataclass(frozen=True)
class TokenizedPrompt:
    """A problem with the token ids that the model gets."""

    prompt: Prompt
    tokens: np.ndarray  # int32 [P]
    demonstration: np.ndarray | None = None  # int32 [D], only in runs that imitate


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


class PromptRenderer:
    """Renders the prompts of one tokenizer and task.

    Args:
        tokenizer: a Hugging Face tokenizer.
        settings: ``template`` is ``plain`` (the ids of ``tokenizer(text)``, without an end token) or ``chat`` (a system
            turn if ``system_prompt`` is set, the turns before the problem, a user turn, and the opening of the
            assistant's).

    Raises:
        ValueError: an unknown template, or ``chat`` with a tokenizer without a usable chat template.
    """

    def __init__(self, tokenizer: Tokenizer, settings: PromptSettings) -> None:
        if settings.template not in ("plain", "chat"):
            raise ValueError(f"task.template is {settings.template!r}; choose plain or chat")
        self.settings = settings
        self._tokenizer = tokenizer
        self.chat_template = chosen_template(tokenizer, settings) if settings.template == "chat" else None
        self.parts: tuple[str, ...] = ()  # the roles whose content the template reads as a list of parts
        self.reads_clock = False  # whether the template asked for today's date

    def __call__(self, text: str, history: Sequence[Turn] = ()) -> list[int]:
        """Token ids of a prompt, complete: nothing is added later.

        Args:
            text: the problem.
            history: the turns before it. Their system turn replaces ``system_prompt``.

        Raises:
            ValueError: the chat template fails, or omits a turn; or there is a history, but no chat template.
        """
        if self.chat_template is None:
            if history:
                raise ValueError(
                    f"it is a conversation of {len(history) + 1} messages, and task.template=plain renders one text; "
                    "set task.template=chat"
                )
            return _encode_plain(text, self._tokenizer)
        return list(self._tokenizer.encode(self.chat_text(text, history), add_special_tokens=False))

    def chat_text(self, text: str, history: Sequence[Turn] = ()) -> str:
        """The output of the chat template for a problem, with special tokens as text."""
        own = any(role == "system" for role, _ in history)
        system = None if own else self.settings.system_prompt
        turns = [*([] if system is None else [("system", system)]), *history, ("user", text)]
        parts, rendered, failure = self._rendered(turns)
        if rendered is None:
            raise ValueError(self._error_message(turns, failure))
        self.parts = parts
        return rendered

    def _rendered(self, turns: Sequence[Turn]) -> tuple[tuple[str, ...], str | None, Exception | None]:
        """The first form of the turns that the template renders completely: its parts and the output.

        The output is None if there is no such form; the last value is what the template raised first.
        """
        failure: Exception | None = None
        for parts in dict.fromkeys((self.parts, *_PARTS_OF_TURNS)):
            try:
                rendered = self._apply(turns, parts)
            except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
                failure = failure or error
                continue
            if _contains_turns(rendered, turns):
                return parts, rendered, failure
        return (), None, failure

    def _apply(self, turns: Sequence[Turn], parts: tuple[str, ...]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                [
                    {"role": role, "content": [{"type": "text", "text": words}] if role in parts else words}
                    for role, words in turns
                ],
                chat_template=self.chat_template,
                add_generation_prompt=True,
                tokenize=False,
                strftime_now=self._strftime,
                **self.settings.chat_template_kwargs,
            )
        )

    def _strftime(self, directives: str) -> str:
        """The clock for templates: midnight of the run's date."""
        self.reads_clock = True
        return dt.datetime.combine(self.settings.date or dt.date.today(), dt.time()).strftime(directives)

    def _error_message(self, turns: Sequence[Turn], failure: Exception | None) -> str:
        system = [content for role, content in turns if role == "system"]
        rest = [turn for turn in turns if turn[0] != "system"]
        if not system and self._rendered([("system", "You are a helpful assistant."), *turns])[1] is not None:
            remedy = "it requires a system turn: set task.system_prompt"
        elif system and self._rendered(rest)[1] is not None:
            remedy = "it does not accept a system turn: " + (
                "remove task.system_prompt and put its text into task.instruction"
                if system == [self.settings.system_prompt]
                else "move the text of the row's system message into its user message"
            )
        elif len(rest) > 1:
            remedy = "use a model whose chat template takes such conversations, or leave the row out"
        else:
            remedy = f"set {_plain(self.settings)}, or use a model with another chat template"
        reason = f"it fails ({' '.join(str(failure).split())[:300]})" if failure else "the output misses their text"
        return (
            f"task.template is 'chat' but the model's chat template cannot render the turns of a prompt: {reason}; "
            f"{remedy}"
        )


def render(prompt: Prompt, tokenizer: Tokenizer, settings: PromptSettings) -> list[int]:
    """Token ids of one prompt; for many, keep a :class:`PromptRenderer`."""
    return PromptRenderer(tokenizer, settings)(prompt.text, prompt.history)


def _plain(settings: PromptSettings) -> str:
    """The settings that do without a chat template."""
    others = ["task.system_prompt=null"] if settings.system_prompt is not None else []
    others += ["task.chat_template_kwargs={}"] if settings.chat_template_kwargs else []
    return "task.template=plain" + (f" (and {', '.join(others)})" if others else "")


def chosen_template(tokenizer: Tokenizer, settings: PromptSettings) -> str:
    """The chat template of a tokenizer: its only one, or the one named ``default``.

    Raises:
        ValueError: it has none, or several without a default.
    """
    templates = tokenizer.chat_template
    if not templates:
        raise ValueError(
            f"task.template is 'chat' but the model's tokenizer has no chat template; set {_plain(settings)}, use an "
            "instruction-tuned model, or save a template as chat_template.jinja in the model's directory"
        )
    if isinstance(templates, str):
        return templates
    if not isinstance(templates, Mapping):
        raise ValueError(
            f"task.template is 'chat' but the chat template of the model's tokenizer is {templates!r}, no text; "
            f"restore the model's tokenizer_config.json, or set {_plain(settings)}"
        )
    if "default" in templates or len(templates) == 1:
        return str(templates.get("default") or next(iter(templates.values())))
    raise ValueError(
        f"task.template is 'chat' but the model has several chat templates ({', '.join(sorted(templates))}) and none "
        "of them is called default; save the one to use as chat_template.jinja in the model's directory and remove the "
        f"others, or set {_plain(settings)}"
    )


def rendering_warnings(
    tokens: Sequence[int], tokenizer: Any, settings: PromptSettings, vocabulary: int | None
) -> list[str]:
    """Warnings about a tokenizer and a prompt that it rendered, one line each with the remedy.

    Args:
        tokens: ids of one prompt of the run.
        vocabulary: rows of the model's embedding; None if not known.
    """
    warnings = []
    if vocabulary is not None and len(tokenizer) > vocabulary:
        warnings.append(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {vocabulary}: a prompt with one "
            "of the others is an error; use the model's own tokenizer"
        )
    if unknown_token(tokenizer) in tokens:
        warnings.append(
            f"the tokenizer does not know some characters of the first prompt and writes {tokenizer.unk_token!r} for "
            "them; use a model whose tokenizer knows the language and the signs of the problems"
        )
    bos = getattr(tokenizer, "bos_token_id", None)
    unused = bos is not None and bos != getattr(tokenizer, "eos_token_id", None) and bos not in tokens
    if settings.template == "plain" and unused and not tokenizer.chat_template:
        warnings.append(
            f"the tokenizer has the begin token {tokenizer.bos_token!r} but does not put it before a text, so prompts "
            "begin without it; if the model was trained with it, save its tokenizer with add_bos_token"
        )
    return warnings


def unknown_token(tokenizer: Any) -> int | None:
    """The token that a tokenizer writes for what it does not know; None if it has none, or uses it as an end token."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return None if unknown == getattr(tokenizer, "eos_token_id", None) else unknown


def token_problem(prompt_id: str, tokens: Sequence[int], vocabulary: int | None) -> str | None:
    """The reason why these token ids cannot be a prompt: none, or one without an embedding; else None."""
    if not tokens:
        return f"prompt {prompt_id!r} has no tokens; add text, or set task.template=chat"
    if vocabulary is not None and max(tokens) >= vocabulary:
        return (
            f"prompt {prompt_id!r} has the token {max(tokens)}, and the model's vocabulary has {vocabulary} tokens; "
            "use the tokenizer of the model in model.path"
        )
    return None


def _contains_turns(rendered: str, turns: Sequence[Turn]) -> bool:
    """Whether the texts of all turns are in the output of a template, which may trim or escape them.

    A list of parts printed literally does not count. A template may leave out the reasoning of earlier answers.
    """
    if _PRINTED_PARTS in rendered:
        return False
    dense, letters, position = "".join(rendered.split()), _letters(rendered), 0
    for role, content in turns:
        words = content.rpartition(_END_OF_REASONING)[2] if role == "assistant" else content
        sought = _letters(words)
        if not sought:
            found = "".join(words.split()) in dense
        elif role == "system":  # some templates put it before the last turn of the user
            found = sought in letters
        else:  # after the turn before it, so that a short text is not found within another turn
            start = letters.find(sought, position)
            found, position = start >= 0, start + len(sought)
        if not found:
            return False
    return True


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


def _encode_plain(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of ``tokenizer(text)`` without an end token, after which the model would not answer."""
    tokens = list(tokenizer.encode(text, add_special_tokens=True))
    bare = list(tokenizer.encode(text, add_special_tokens=False))
    if not bare:
        return tokens
    for start in range(len(tokens) - len(bare) + 1):
        if tokens[start : start + len(bare)] == bare:
            return tokens[: start + len(bare)]
    return tokens
