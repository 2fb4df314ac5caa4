"""A task of the user: a class with ``prompts(split)`` and ``verify(prompt, response)``.

Its prompts are read here. Its verifier runs in a separate process (``verifiers/rewards/``).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from verifiers.settings import INSTRUCTIONS, TaskSettings
from verifiers.task import ROLES, Prompt, check_split
from verifiers.user_code import UserCodeError, describe_error, load, place_of
from verifiers.verdict import Verdict


class UserTask:
    """The prompts of a user's task, checked."""

    def __init__(self, settings: TaskSettings, cls: type[Any] | None = None) -> None:
        self.name = settings.name
        self.settings = settings
        self._object = make_user_object(settings, cls)
        self._cache: dict[str, list[Prompt]] = {}

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of a split, cut to the size that is set.

        Raises:
            ValueError: The user's method fails, or gives something else than prompts.
        """
        check_split(split)
        if split not in self._cache:
            self._cache[split] = self._read(split)
        return self._cache[split]

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Never called: the class could block or end this process, so it grades in another one."""
        raise NotImplementedError("RewardedTask grades in a separate process")

    def _read(self, split: str) -> list[Prompt]:
        where = f"task.name = {self.name}: prompts({split!r})"
        try:
            prompts = list(self._object.prompts(split))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit
            raise UserCodeError(f"{where} failed: {describe_error(error)}") from error
        ids: set[str] = set()
        for prompt in prompts:
            if not isinstance(prompt, Prompt):
                raise UserCodeError(
                    f"{where} gave a {type(prompt).__name__}, not a bonrl.Prompt; give bonrl.Prompt objects"
                )
            if problem := _wrong_field(prompt) or _wrong_history(prompt):
                raise UserCodeError(f"{where}, prompt {prompt.id!r}: its {problem}")
            if prompt.id in ids:
                raise UserCodeError(f"{where} gave two prompts with the id {prompt.id!r}; make ids unique")
            _check_json(prompt, where)
            ids.add(prompt.id)
        size = getattr(self.settings, f"{split}_size")
        if size is not None and size > len(prompts):
            raise ValueError(f"task.{split}_size is {size}, but {where} gave only {len(prompts)}; lower it")
        return prompts[:size]


def _wrong_field(prompt: Prompt) -> str:
    """What is wrong with a field of a prompt; empty if nothing is."""
    for name in ("id", "text", "level", "demonstration"):
        value = getattr(prompt, name)
        if name == "demonstration" and value is None:
            continue
        if not isinstance(value, str):
            return f"{name} is {value!r}; give text"
        if value != value.encode(errors="replace").decode():
            return f"{name} contains half of a surrogate pair; write the whole character"
    if not isinstance(prompt.reference, dict):
        return f"reference is {prompt.reference!r}; give a dict, for example {{'answer': {prompt.reference!r}}}"
    if not isinstance(prompt.row, dict | None):
        return f"row is {prompt.row!r}; give a dict of columns"
    return ""


def _wrong_history(prompt: Prompt) -> str:
    """What is wrong with the history of a prompt; empty if nothing is."""
    if not isinstance(prompt.history, tuple | list):
        return f"history is {prompt.history!r}; give a list of (role, content)"
    for message in prompt.history:
        if not (isinstance(message, (tuple, list)) and len(message) == 2 and isinstance(message[1], str)):
            return f"history has a message {message!r}; give (role, content), both text"
        if message[0] not in ROLES:
            return f"history has a message of the role {message[0]!r}; choose one of {', '.join(ROLES)}"
    return ""


def _check_json(prompt: Prompt, where: str) -> None:
    try:
        json.dumps(prompt.reference)
    except (TypeError, ValueError) as error:
        raise UserCodeError(
            f"{where}, prompt {prompt.id!r}: its reference holds more than JSON types: {error}"
        ) from None


def make_user_object(settings: TaskSettings, cls: type[Any] | None = None) -> Any:
    """An instance of the class that ``task.name`` means; ``task.options`` are arguments of its constructor.

    Raises:
        UserCodeError: There is no such class, it lacks a method, or its constructor fails.
    """
    from verifiers.tasks.registry import USER_TASKS

    try:
        found = cls or USER_TASKS.get(settings.name) or load(settings.name)
    except UserCodeError as error:
        raise UserCodeError(f"task.name = {settings.name}: {error}") from error
    if not inspect.isclass(found):
        raise UserCodeError(
            f"task.name = {settings.name} is a {type(found).__name__}, not a class; name a class with the methods "
            "prompts and verify"
        )
    for method in ("prompts", "verify"):
        if not callable(getattr(found, method, None)):
            raise UserCodeError(f"task.name = {settings.name} ({place_of(found)}) has no method {method}; add it")
    arguments = _arguments(found, settings)
    try:
        return found(**arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also sys.exit
        raise UserCodeError(f"task.name = {settings.name} cannot be made: {describe_error(error)}") from error


def _arguments(cls: type[Any], settings: TaskSettings) -> dict[str, Any]:
    """Arguments of the constructor: ``settings`` (the section `task`) if it takes that, and ``task.options``."""
    parameters = inspect.signature(cls).parameters
    every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    takes_settings = "settings" in parameters
    if not takes_settings and settings.instruction not in ("", *INSTRUCTIONS.values()):
        raise UserCodeError(
            f"task.instruction is not read by {settings.name} ({place_of(cls)}): omit it, or let its constructor take "
            "`settings` and append settings.instruction to the problems"
        )
    unknown = [] if every or takes_settings else [name for name in settings.options if name not in parameters]
    if unknown:
        raise UserCodeError(
            f"task.options names {unknown[0]!r}, but the constructor of {settings.name} ({place_of(cls)}) has no "
            f"parameter of that name; it has {', '.join(parameters) or 'none'}"
        )
    named = {name: value for name, value in settings.options.items() if every or name in parameters}
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in named
        and name != "settings"
    ]  # fmt: skip
    if missing:
        raise UserCodeError(f"the constructor of {settings.name} ({place_of(cls)}) needs {missing[0]!r}; set it in "
                            "task.options")  # fmt: skip
    return named | ({"settings": settings} if takes_settings else {})
