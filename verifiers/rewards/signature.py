"""How a user's function is called: its parameters, by name.

Functions written for TRL, verl and OpenRLHF use other names for the same things; they are known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verifiers.rewards.response import Response
from verifiers.task import Prompt
from verifiers.user_code import UserCodeError, place_of

# A name means the first of these that fits: what bonrl gives, an option, a column of the row, an alias.
ANSWER = ("response", "completion", "solution_str")  # aliases: TRL, verl
ANSWERS = ("responses", "completions", "solution_strs")
REFERENCE = ("reference", "ground_truth", "label")  # verl, OpenRLHF
LENGTHS = ("response_tokens", "finish_reason", "truncated")  # attributes of a response; lists for a batch
_Kind = inspect.Parameter


class Signature:
    """The parameters of a function that grades answers.

    Args:
        function: Any callable.
        name: Of the function, for messages.
        options: ``task.options``; values for parameters of these names.

    Attributes:
        batch: Whether it takes all answers of a prompt at once.
        as_in_trl: Whether a parameter has a name under which TRL may pass lists of messages.

    Raises:
        UserCodeError: It takes no answer.
    """

    def __init__(self, function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
        place = place_of(function)
        self.where = f"{name} ({place})" if place else name
        self._options = options
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise UserCodeError(f"{self.where} is not a function whose parameters can be read: {error}") from error
        self._positional = [p for p in parameters if p.kind is _Kind.POSITIONAL_ONLY]
        self._named = {p.name: p for p in parameters if p.kind in (_Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)}
        self._all_columns = any(p.kind is _Kind.VAR_KEYWORD for p in parameters)
        names = [p.name for p in self._positional] + list(self._named)
        self.batch = any(name in (*ANSWERS, "queries") for name in names)
        self.as_in_trl = not {"prompts", "completions", "completion"}.isdisjoint(names)
        takes_one = any(name in (*ANSWER, "query") for name in names)
        if self.batch and takes_one:
            raise UserCodeError(
                f"{self.where} has parameters for one answer and for a list of answers; keep "
                "only `response` or only `responses`"
            )
        if not self.batch and not takes_one and not self._all_columns:
            raise UserCodeError(
                f"{self.where} has no parameter for the model's answer (its parameters are {', '.join(names) or 'none'}"
                "); write, for example, def score(prompt, response, **row), or responses: list for a batch"
            )
        self._takes_answer = self.batch or takes_one
        unknown = [name for name in options if name not in names and not self._all_columns]
        if unknown:
            raise UserCodeError(
                f"task.options names {unknown[0]!r}, but {self.where} has no parameter of that name; "
                "correct the name, or leave it out"
            )

    def arguments(self, prompt: Prompt, responses: Sequence[Response]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments for one answer, or for a batch of answers to one prompt.

        Raises:
            UserCodeError: A parameter without a default is neither a column of the row nor known.
        """
        given = self._given(prompt, responses)
        positional = []
        for parameter in self._positional:
            if parameter.name not in given and parameter.default is not _Kind.empty:
                break
            positional.append(self._value(parameter.name, given, prompt))
        named = {
            name: self._value(name, given, prompt)
            for name, parameter in self._named.items()
            if name in given or parameter.default is _Kind.empty
        }
        if self._all_columns:
            taken = {parameter.name for parameter in self._positional}
            rest = self._rest(prompt, responses)
            named = {name: value for name, value in rest.items() if name.isidentifier() and name not in taken} | named
        return positional, named

    def _rest(self, prompt: Prompt, responses: Sequence[Response]) -> dict[str, Any]:
        """What ``**kwargs`` gets: all columns, and the options; prompt and answer if no parameter takes the answer."""
        columns = prompt.columns
        rest = {name: [value] * len(responses) for name, value in columns.items()} if self.batch else dict(columns)
        return rest | dict(self._options) | ({} if self._takes_answer else
                                             {"prompt": prompt.text, "response": responses[0].text})  # fmt: skip

    def _value(self, name: str, given: Mapping[str, Any], prompt: Prompt) -> Any:
        if name not in given:
            columns = ", ".join(map(str, prompt.columns)) or "none"
            known = "prompts, responses, references, rows" if self.batch else "prompt, response, reference, row"
            known += f", messages, {', '.join(LENGTHS)}"
            if name == "self":
                raise UserCodeError(
                    f"{self.where} is a method, and there is no object to call it on; name an object's method, or name "
                    "the class and call the method __call__"
                )
            raise UserCodeError(
                f"{self.where} has the parameter {name!r}, but prompt {prompt.id!r} has no column of that name; "
                f"columns: {columns}; also known: {known}. Rename it, or give it a default"
            )
        return given[name]

    def _given(self, prompt: Prompt, responses: Sequence[Response]) -> dict[str, Any]:
        """Values by name; later ones replace earlier ones."""
        texts, n, columns = [response.text for response in responses], len(responses), prompt.columns
        reference = prompt.reference.get("answer", prompt.reference)
        given: dict[str, Any] = {"level": prompt.level} | dict.fromkeys(REFERENCE, reference)
        given |= {"messages": [prompt.messages for _ in texts] if self.batch else prompt.messages}
        given |= lengths(responses) if self.batch else lengths_of(responses[0])
        if not self.batch:
            given |= dict(columns) | dict(self._options)
            given |= dict.fromkeys(ANSWER[1:], texts[0]) if "response" not in self._named else {}
            return given | {
                "prompt": prompt.text,
                "prompt_id": prompt.id,
                "response": texts[0],
                "query": prompt.text + texts[0],
                "row": dict(columns),
            }
        given |= {f"{name}s": [reference] * n for name in REFERENCE}
        given |= {f"{name}s": [value] * n for name, value in columns.items()}
        given |= {name: [value] * n for name, value in columns.items()} | dict(self._options)
        given |= dict.fromkeys(ANSWERS[1:], list(texts)) if "responses" not in self._named else {}
        return given | {
            "prompt": prompt.text,
            "prompts": [prompt.text] * n,
            "prompt_id": prompt.id,
            "responses": texts,
            "queries": [prompt.text + text for text in texts],
            "row": dict(columns),
            "rows": [dict(columns) for _ in texts],
        }


def lengths_of(response: Response) -> dict[str, Any]:
    """The values of ``LENGTHS`` for one response."""
    values = (response.tokens, response.finish_reason, response.truncated)
    return dict(zip(LENGTHS, values, strict=True))


def lengths(responses: Sequence[Response]) -> dict[str, list[Any]]:
    """The values of ``LENGTHS`` for a batch."""
    each = [lengths_of(response) for response in responses]
    return {name: [values[name] for values in each] for name in LENGTHS}
