"""README and docs/ name files, functions, modules and configuration keys that exist, and every link leads somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main

from cluster.commands.app import app
from cluster.config import key_paths, load_config, models_in
from tests.conftest import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/clusters").glob("*.md")]
)  # docs/evidence is checked by its own test
FOLDERS = "actors|benchmarks|cluster|docs|learner|models|requirements|tests|verifiers"
GENERATED = ("configuration.md", "metrics.md")  # from the code, by tests of their own
# Files and functions.
NOT_KEYS = {"queue.arrow", "evaluation.json", "cluster.results.load_run", "cluster.results.compare"}
# The example in docs/objectives.md, and the model that docs/smollm2.md builds.
TO_BE_WRITTEN = {"learner/strategies/second_best.py", "models/SmolLM2-135M-Instruct"}


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_path_exists(page: Path) -> None:
    named = set(re.findall(rf"(?<![\w/.\-])(?:{FOLDERS})/[\w\-*/.]*\w(?:\.\w+|/|\b)", page.read_text("utf-8")))
    missing = [path for path in sorted(named - TO_BE_WRITTEN) if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_every_function_exists(page: Path) -> None:
    named = re.findall(rf"((?:{FOLDERS})/[\w/]+\.py)::([\w.]+)", page.read_text("utf-8"))
    missing = [f"{file}::{name}" for file, name in named if name not in _definitions(ROOT / file)]
    assert not missing


def test_every_module_exists(page: Path) -> None:
    modules = re.findall(rf"python -m ((?:{FOLDERS})[\w.]*)", page.read_text("utf-8"))
    missing = [
        module
        for module in modules
        if not any((ROOT / module.replace(".", "/")).with_suffix(suffix).exists() for suffix in (".py", ""))
    ]
    assert not missing


def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or anchor and anchor not in _anchors(file):
            broken.append(target)
    assert not broken


def test_every_configuration_key_exists(page: Path) -> None:
    """Keys that begin inline code, and overrides (`key=value`)."""
    if page.name in GENERATED:
        return
    text, known = page.read_text("utf-8"), set(key_paths())
    known |= {
        f"{k}.{name}" for k, info in key_paths().items() for m in models_in(info.annotation) for name in m.model_fields
    }
    key = rf"(?:{'|'.join(sorted({name.partition('.')[0] for name in known}))})(?:\.[a-z_]+)+"
    named = [*re.findall(rf"`({key})[`=: ]", text), *re.findall(rf"(?<![\w./])({key})=", text)]
    assert not sorted(set(named) - known - NOT_KEYS)


def test_every_command_and_option_exists(page: Path) -> None:
    wrong = []
    for line in re.findall(r"\bbonrl ((?:[a-z-]+ )*[^`\n#\"]*)", page.read_text("utf-8")):
        words, known = line.replace("'", " ").split(), typer.main.get_command(app).commands  # type: ignore[attr-defined]
        if not words or words[0] not in known:  # the name in a sentence
            continue
        command, options = known[words[0]], {"-h", "--help"}
        for word in words:  # of several commands in `cluster render` and `submit --command 'eval ...'`
            command = {**known, **getattr(command, "commands", {})}.get(word, command)
            options |= {name for parameter in command.params for name in parameter.opts}
            if re.match(r"-{1,2}[a-zA-Z]", word) and word.rstrip(".,;:)").partition("=")[0] not in options:
                wrong.append(f"bonrl {line}: {word}")
    assert not wrong


def test_the_commands_about_data_are_accepted(tmp_path: Path) -> None:
    """With the page's own my.yaml; what they would read does not exist here."""
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    config = tmp_path / "my.yaml"
    config.write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    commands = re.findall(r"^bonrl (?:train|sft) -c my\.yaml .*", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        load_config(config, [word for word in command.split() if "=" in word])


def test_the_commands_about_eight_gpus_are_accepted(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "eight-gpus.md").read_text("utf-8").replace("\\\n", "")
    mine = tmp_path / "my.yaml"
    mine.write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    commands = re.findall(r"^bonrl (?:train|eval) -c .*", text, re.MULTILINE)
    overrides = [[word for word in line.split() if re.match(r"[a-z]+\.[a-z_.]+=", word)] for line in commands]
    overrides.append(re.findall(r"`(actors.samplers=6) (learner.ranks=2) (learner.zero_stage=1)`", text)[0])
    assert [len(one) for one in overrides] == [0, 0, 2, 7, 3]
    for one in overrides:
        config = load_config([ROOT / "cluster" / "presets" / "8xh100.yaml", mine], list(one))
        assert (config.objective.k, config.task.template, config.cluster.num_gpus) == (16, "chat", 8)


def test_the_translated_examples_are_accepted(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "migrate.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        mine = tmp_path / "my.yaml"
        mine.write_text(example)
        assert load_config(mine).objective.estimator == "grpo"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT]
    assert not [name for name in pages if name != "README.md" and f"]({name})" not in index]
    evidence = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs" / "evidence").rglob("*.md")]
    assert not [name for name in [*pages, *evidence] if f" {name}\n" not in site]


def _definitions(file: Path) -> set[str]:
    """Names of a module's functions, classes and constants, and `Class.method`."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
            names.update(f"{node.name}.{method.name}" for method in methods)
    return names


def _anchors(file: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
