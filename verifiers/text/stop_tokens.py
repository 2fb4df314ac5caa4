"""The tokens of a model directory that end a response, and those that are not part of its text.

Released models name their end token in up to four places that do not always agree: generation_config.json, config.json,
the tokenizer, and the chat template. Sampling stops at any of them. Files are read as JSON, without importing a
library.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

# Tokens that end an assistant's turn in chat templates, where the tokenizer has them as added tokens.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_turn|>",
)
# In a template with channels, `<|end|>` ends a message such as the reasoning, not the turn.
_CHANNEL, _MESSAGE_END = "<|channel|>", "<|end|>"
_NAMED = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id")


def stop_token_ids(directory: str | Path) -> list[int]:
    """Ids at which a response ends, each once: of the generation settings, the configuration and the tokenizer.

    Raises:
        ValueError: a file is not valid JSON.
    """
    directory = Path(directory)
    config = _read(directory / "config.json")
    found: list[int] = []
    for settings in (_read(directory / "generation_config.json"), config, config.get("text_config") or {}):
        ids = settings.get("eos_token_id")
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return list(dict.fromkeys([*found, *_tokenizer_ends(directory)]))


def end_token_id(tokenizer: Any, directory: str | Path, template: str) -> int | None:
    """The token after a response that is imitated: with ``chat`` the end of a turn, else the tokenizer's end token.

    The first of the other stop tokens if there is neither; None if the model has none.
    """
    stops, ids = stop_token_ids(directory), _added_tokens(Path(directory))
    turns = [ids[name] for name in _turn_ends(chat_templates(directory)) if name in ids] if template == "chat" else []
    return next((token for token in [*turns, tokenizer.eos_token_id, *stops] if token is not None), None)


def frame_tokens(tokenizer: Any, directory: str | Path) -> frozenset[int]:
    """Ids that are not part of a response's text: begin, end, end of turn, padding, unknown.

    Other special tokens are part of it: models write tags such as ``</think>`` with them.
    """
    named = {getattr(tokenizer, name, None) for name in _NAMED}
    return frozenset({*stop_token_ids(directory), *(token for token in named if token is not None)})


def chat_templates(directory: str | Path) -> str:
    """The text of all chat templates of a model directory; empty if it has none."""
    directory = Path(directory)
    named = _read(directory / "tokenizer_config.json").get("chat_template") or ""
    if not isinstance(named, str | list):
        raise ValueError(f"tokenizer_config.json has chat_template = {named!r}, which is neither text nor a list")
    texts = [named] if isinstance(named, str) else [entry["template"] for entry in named]
    texts += [file.read_text(encoding="utf-8") for file in sorted(directory.glob("chat_template.jinja"))]
    texts.append(str(_read(directory / "chat_template.json").get("chat_template") or ""))
    return "\n".join(text for text in texts if text)


def decode_responses(tokenizer: Any, responses: Sequence[list[int]], frame: Collection[int]) -> list[str]:
    """Texts as the model wrote them, without the tokens of the frame.

    `skip_special_tokens` would also remove reasoning tags, and a box inside the reasoning would be read as the answer.
    """
    written = [[token for token in tokens if token not in frame] for tokens in responses]
    return list(tokenizer.batch_decode(written, skip_special_tokens=False))


def _tokenizer_ends(directory: Path) -> list[int]:
    """Ids of the tokenizer's end token, and of the end of a turn in its chat template."""
    settings, ids = _read(directory / "tokenizer_config.json"), _added_tokens(directory)
    end = settings.get("eos_token") or _read(directory / "special_tokens_map.json").get("eos_token")
    ends = [end.get("content") if isinstance(end, dict) else end, *_turn_ends(chat_templates(directory))]
    return [ids[name] for name in ends if name in ids]


def _turn_ends(template: str) -> list[str]:
    return [name for name in _TURN_ENDS if name in template and not (name == _MESSAGE_END and _CHANNEL in template)]


def _added_tokens(directory: Path) -> dict[str, int]:
    tokens = {}
    for id_, token in (_read(directory / "tokenizer_config.json").get("added_tokens_decoder") or {}).items():
        tokens[token["content"]] = int(id_)
    for token in _read(directory / "tokenizer.json").get("added_tokens") or []:
        tokens[token["content"]] = int(token["id"])
    return tokens


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}
