"""Makes an exported model directory render prompts as in training.

A user of the export calls ``tokenizer(text)`` or ``apply_chat_template``, or starts a server on the directory, without
the run's configuration. So the export holds it:

- the system prompt, the values for the chat template, the date and the form of the content are defaults of the exported
  chat template;
- the tokenizer does not append an end token;
- all stop tokens are in generation_config.json;
- ``bonrl_prompt.json`` records the settings.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verifiers.text.rendering import PromptRenderer, PromptSettings
from verifiers.text.stop_tokens import stop_token_ids

RECORD = "bonrl_prompt.json"
_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", "-j", *"aAbBcdDeFfGHIjmMpSTuUVwWxXyYzZ")
_PROBE = "How much is one and one?"
_SYSTEM = ("system", "Be brief.")
_EXCHANGE = (("user", "How much is two and two?"), ("assistant", "Four."))


def finish_export(directory: str | Path, settings: PromptSettings) -> None:
    """Change a directory with model and tokenizer so that it renders prompts as the run did.

    Raises:
        ValueError: the chat template cannot render a prompt.
    """
    from transformers import AutoTokenizer

    directory = Path(directory)
    if settings.template == "chat":
        renderer = PromptRenderer(AutoTokenizer.from_pretrained(directory, local_files_only=True), settings)
        renderer.chat_text(_PROBE)
        for history in (_EXCHANGE, (_SYSTEM, *_EXCHANGE)):  # finds more roles whose content is a list of parts
            with contextlib.suppress(ValueError):  # a template without such turns
                renderer.chat_text(_PROBE, history)
        if defaults := template_defaults(renderer):
            _write_template(directory, f"{defaults}\n{renderer.chat_template}")
    else:
        _leave_out_end_token(directory)
    _write_stop_tokens(directory)
    record = {
        "template": settings.template,
        "system_prompt": settings.system_prompt,
        "chat_template_kwargs": dict(settings.chat_template_kwargs),
        "date": settings.date.isoformat() if settings.date else None,
    }
    _write_json(directory / RECORD, record)
    make_readable(directory)


def make_readable(directory: Path) -> None:
    """Give every file the mode 0644: safetensors are written readable by their owner only."""
    for file in directory.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def put_begin_token(directory: Path, first: set[int]) -> None:
    """Make the tokenizer put BOS before a text if all recorded prompts began with it (`first` is {BOS})."""
    from tokenizers import Tokenizer, processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    bos, file = tokenizer.bos_token_id, directory / "tokenizer.json"
    if first != {bos} or tokenizer("1").input_ids[:1] == [bos] or not file.is_file():
        return
    changed = Tokenizer.from_file(str(file))
    changed.post_processor = processors.TemplateProcessing(
        single=[tokenizer.bos_token, "$A"],
        pair=[tokenizer.bos_token, "$A", "$B:1"],
        special_tokens=[(tokenizer.bos_token, bos)],
    )
    changed.save(str(file))


def template_defaults(renderer: PromptRenderer) -> str:
    """Jinja statements that set the run's values as defaults of a chat template; may be empty.

    They produce no output. They do not end in a line break, because Jinja drops the first one after a statement.
    """
    settings = renderer.settings
    lines = [
        f"{{%- if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in settings.chat_template_kwargs.items()
    ]
    if renderer.reads_clock:
        lines.append(_clock(settings.date or dt.date.today()))
    if settings.system_prompt is not None:
        turn = _literal({"role": "system", "content": settings.system_prompt})
        lines.append(
            "{%- if not messages or messages[0]['role'] != 'system' %}"
            f"{{% set messages = [{turn}] + messages %}}{{% endif %}}"
        )
    if renderer.parts:
        lines.append(
            "{%- set sent = namespace(turns=[]) %}{% for turn in messages %}"
            f"{{% if turn['content'] is string and turn['role'] in {_literal(list(renderer.parts))} %}}"
            "{% set turn = dict(turn, content=[{'type': 'text', 'text': turn['content']}]) %}{% endif %}"
            "{% set sent.turns = sent.turns + [turn] %}{% endfor %}{% set messages = sent.turns %}"
        )
    return "".join(lines)


def _clock(day: dt.date) -> str:
    """A macro that replaces ``strftime_now`` and formats `day`."""
    midnight = dt.datetime.combine(day, dt.time())
    known = "".join(
        f" | replace({_literal('%' + directive)}, {_literal(midnight.strftime('%' + directive))})"
        for directive in _DIRECTIVES
    )
    return f"{{%- macro strftime_now(format) %}}{{{{ format{known} }}}}{{% endmacro %}}"


def _literal(value: Any) -> str:
    """A value as a Jinja literal. Jinja reads JSON's escapes, except surrogate pairs: non-ASCII stays unescaped."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _write_template(directory: Path, template: str) -> None:
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    (directory / "chat_template.json").unlink(missing_ok=True)
    settings = _read_json(directory / "tokenizer_config.json")
    if "chat_template" in settings:
        _write_json(directory / "tokenizer_config.json", {k: v for k, v in settings.items() if k != "chat_template"})


def _leave_out_end_token(directory: Path) -> None:
    """Change a tokenizer that appends an end token: prompts in training had none."""
    settings, tokenizer = (_read_json(directory / name) for name in ("tokenizer_config.json", "tokenizer.json"))
    if settings.get("add_eos_token"):
        _write_json(directory / "tokenizer_config.json", settings | {"add_eos_token": False})
    changed = False
    processor = tokenizer.get("post_processor") or {}
    for part in [processor, *processor.get("processors", [])]:
        for form, last in (("single", "A"), ("pair", "B")) if part.get("type") == "TemplateProcessing" else ():
            end = max(i for i, item in enumerate(part[form]) if item.get("Sequence", {}).get("id") == last) + 1
            changed = changed or end < len(part[form])
            part[form] = part[form][:end]
    if changed:
        _write_json(directory / "tokenizer.json", tokenizer)


def _write_stop_tokens(directory: Path) -> None:
    """Write all stop tokens of sampling to generation_config.json."""
    stops, file = stop_token_ids(directory), directory / "generation_config.json"
    settings = _read_json(file)
    written = settings.get("eos_token_id")
    if stops and set(stops) != set(written if isinstance(written, list) else [written]):
        _write_json(file, settings | {"eos_token_id": stops if len(stops) > 1 else stops[0]})


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
