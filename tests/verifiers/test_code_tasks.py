"""HumanEval and MBPP: programs from responses, prompts, errors about broken files, and the real problems."""

from __future__ import annotations

import ast
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verifiers import Status, TaskSettings, make_task
from verifiers.programs.extraction import program_of
from verifiers.sandbox.settings import SandboxSettings
from verifiers.tasks.code_task import CodeVerifier

DATA = Path(os.environ.get("BONRL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
runs_code = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)

STUB = 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """Add.\n    >>> add(1, 2)\n    3\n    """\n'
BODY = "    c = a + b\n    return c\n"
FULL = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    "response",
    [
        BODY,
        BODY + "\n\ndef other():\n    return",
        BODY + "\n# Test it\nprint(add(1, 2))\n",
        BODY + "\nThis adds the two numbers.",
        BODY.lstrip(),
        '    """More."""\n    text = """\nat the margin\n"""\n' + BODY,
        "    return sum([\n        a,\n        b,\n])\n",
        "    for c in (a + b,):\n        return c\n",
        "for c in (a + b,):\n        return c\n",
        f"```python\n{FULL}```",
        f"Sure! Here it is:\n\n```python\n{FULL}```\nIt adds `a` and `b`.",
        f"First a wrong one:\n```python\ndef add(a, b):\n    return 0\n```\nBetter:\n```py\n{FULL}```",
        f"```python\n{FULL}```\nUse it so:\n```python\nprint(add(1, 2))\n```",
        f"```python\n{FULL}```\nOutput:\n```\n3\n```",
        f"```\n{FULL}```",
        f"```python\n{BODY}```",
        "```python\nc = a + b\nreturn c\n```",
        "```python\nc = a + b\n    return c\n```",
        f"```python\n{FULL}",
        f"~~~python\n{FULL}~~~",
        "1. Like this:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n",
        f"<think>\n```python\ndef add(a, b): return 0\n```\n</think>\n```python\n{FULL}```",
        f"```python\n{FULL}```".replace("\n", "\r\n"),
        "```python\nadd = lambda a, b: a + b\n```",
        FULL,
        f"Here is the function:\n\n{FULL}\nIt returns the sum.",
        f"```python\n{STUB}{BODY}```",
    ],
)
def test_the_program_in_a_response(response: str) -> None:
    program = program_of(response, prompt=STUB, entry_point="add")
    assert program is not None
    space: dict[str, Any] = {}
    exec(compile(program, "<program>", "exec"), space)
    assert space["add"](2, 3) == 5


@pytest.mark.parametrize(
    "response",
    [
        f"```python\n{FULL}```",
        FULL,
        f"import math\n\n{FULL}\nThe function adds.",
        f"Here is the code:\n{FULL}",
        f'{FULL}\n"""\nAnother task.\n"""\n',
        f"Let us see, for example:\n\n{FULL}",
    ],
)
def test_a_program_that_stands_alone(response: str) -> None:
    program = program_of(response)
    assert program is not None
    space: dict[str, Any] = {}
    exec(compile(program, "<program>", "exec"), space)
    assert space["add"](2, 3) == 5


@pytest.mark.parametrize("response", ["", "  \n", "I do not know.", "```python\n```", "x" * 100_000 + " = 1"])
def test_no_program(response: str) -> None:
    assert program_of(response) is None


@pytest.mark.parametrize("attack", ["```" * 60_000, "`" * 200_000, '"""' * 60_000, "def " * 50_000, "\n" * 200_000])
def test_hostile_responses_are_quick(attack: str) -> None:
    import time

    started = time.process_time()  # not wall time: the machine may be busy
    for prompt in ("", STUB):
        program_of(attack, prompt=prompt, entry_point="add")
    assert time.process_time() - started < 2.0


PROBLEM = {
    "id": "h/0",
    "problem": STUB,
    "tests": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
    "entry_point": "add",
}
TASK = {
    "id": "m/0",
    "problem": "Write a function that adds.",
    "solution": "import math\r\n" + FULL,
    "tests": ["assert add(2, 3) == 5", "assert math.isclose(add(1, 1), 2)"],
    "test_setup": "",
    "split": "train",
}


TEST = {**TASK, "split": "test"}


def write(directory: Path, name: str, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (directory / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path, "humaneval.jsonl", [PROBLEM])
    others = [{**TASK, "id": f"m/{split}", "split": split} for split in ("validation", "prompt")]
    write(tmp_path, "mbpp.jsonl", [TASK, {**TASK, "id": "m/1"}, *others])
    write(tmp_path, "mbpp_sanitized.jsonl", [{**TASK, "id": "m/9", "split": "test"}])
    return tmp_path


@pytest.fixture
def task(directory: Path, request: pytest.FixtureRequest) -> Iterator[CodeVerifier]:
    sandbox = SandboxSettings(preload=(), wall_seconds=2.0)
    made = make_task(TaskSettings(name=request.param, path=str(directory), sandbox=sandbox))
    assert isinstance(made, CodeVerifier)
    yield made
    made.close()


@runs_code
@pytest.mark.parametrize(("task", "split"), [("humaneval", "test"), ("mbpp", "train")], indirect=["task"])
def test_verdicts(task: Any, split: str) -> None:
    prompt = task.prompts(split)[0]
    assert task.prepare().startswith("code sandbox: level L")
    right = task.verify(prompt, f"```python\n{FULL}```")
    assert (right.status, right.reward) == (Status.CORRECT, 1.0), right
    assert right.answer is not None and FULL in right.answer
    assert task.verify(prompt, "```python\ndef add(a, b): return a\n```").status is Status.WRONG
    assert task.verify(prompt, "").status is Status.UNPARSABLE
    assert task.verify(prompt, "```python\nimport os\nos._exit(0)\n```").status is Status.CRASH
    json.dumps(prompt.reference)


@pytest.mark.parametrize("task", ["mbpp"], indirect=True)
def test_splits_and_prompts_of_mbpp(task: Any) -> None:
    assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [2, 1, 1]
    prompt = task.prompts("test")[0]
    assert prompt.text == '"""\nWrite a function that adds.\nassert add(2, 3) == 5\n"""\n'
    assert prompt.reference["names"] == ["add"]
    assert prompt.reference["tests"].startswith("import math\n")
    chat = make_task(task.settings.model_copy(update={"template": "chat", "shown_tests": 2}))
    text = chat.prompts("test")[0].text
    assert "```python block" in text and text.count("assert") == 2


@runs_code
@pytest.mark.parametrize("task", ["mbpp"], indirect=True)
@pytest.mark.parametrize("template", ["plain", "chat"])
def test_solutions_of_mbpp_are_demonstrations_in_training_only(task: Any, template: str) -> None:
    templated: Any = make_task(task.settings.model_copy(update={"template": template}))
    prompts = templated.prompts("train")
    assert all(templated.verify(prompt, prompt.demonstration).status is Status.CORRECT for prompt in prompts)
    assert all(prompt.demonstration.startswith("```python\n") == (template == "chat") for prompt in prompts)
    assert all(prompt.demonstration is None for split in ("validation", "test") for prompt in templated.prompts(split))
    templated.close()


def test_humaneval_has_a_test_split_only(directory: Path) -> None:
    task = make_task(TaskSettings(name="humaneval", path=str(directory)))
    assert task.prompts("test")[0].text == STUB
    with pytest.raises(ValueError, match=r"task\.name is humaneval.*train on task\.name: mbpp"):
        task.prompts("train")
    chat = make_task(TaskSettings(name="humaneval", path=str(directory), template="chat"))
    assert f"```python\n{STUB.strip()}\n```" in chat.prompts("test")[0].text


@pytest.mark.parametrize(
    ("name", "file", "bad", "message"),
    [
        ("humaneval", "humaneval.jsonl", "{", r"humaneval\.jsonl, line 2: not valid JSON"),
        ("humaneval", "humaneval.jsonl", "[]", r"line 2: not a JSON object"),
        ("humaneval", "humaneval.jsonl", PROBLEM, r"line 2: duplicate id 'h/0'"),
        (
            "humaneval",
            "humaneval.jsonl",
            {**PROBLEM, "tests": None},
            r"line 2: the field 'tests' is missing or not text",
        ),
        ("humaneval", "humaneval.jsonl", {**PROBLEM, "tests": "def check("}, r"line 2: the tests do not compile"),
        ("humaneval", "humaneval.jsonl", {**PROBLEM, "tests": "x = 1"}, r"line 2: .*no function check"),
        (
            "mbpp",
            "mbpp_sanitized.jsonl",
            {**TASK, "split": "test", "tests": []},
            r"line 2: the field 'tests' is not a list",
        ),
        ("mbpp", "mbpp_sanitized.jsonl", {**TASK, "split": "test", "tests": ["assert ("]}, r"line 2: the tests do not"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TASK, "split": "test", "solution": "def ("}, r"line 2: the solution does"),
        ("mbpp", "mbpp_sanitized.jsonl", {"id": "x"}, r"line 2: the field 'split' is missing"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TEST, "solution": 5}, r"line 2: the field 'solution' is not text"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TEST, "test_setup": 5}, r"line 2: the field 'test_setup' is not text"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TEST, "tests": [""]}, r"line 2: the tests contain no assert; add at least"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TEST, "tests": ["x = 1"]}, r"line 2: the tests contain no assert"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TEST, "tests": ["assert True"]}, r"line 2: the tests use nothing that the"),
        ("mbpp", "mbpp_sanitized.jsonl", {**TEST, "tests": ["assert near(add(1, 2), 3)"]}, r"line 2: .*name 'near'"),
        ("humaneval", "humaneval.jsonl", {**PROBLEM, "tests": "def check(c): pass"}, r"line 2: check never calls"),
    ],
)
def test_broken_files_are_refused_with_the_line(directory: Path, name: Any, file: str, bad: Any, message: str) -> None:
    good = (directory / file).read_text().splitlines()[:1]
    write(directory, file, [*good, bad])
    with pytest.raises(ValueError, match=message):
        make_task(TaskSettings(name=name, path=str(directory))).prompts("test")


def test_missing_files_and_sizes_are_refused_with_the_key(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.path is not set"):
        make_task(TaskSettings(name="mbpp"))
    with pytest.raises(ValueError, match=r"task\.path: no file humaneval\.jsonl"):
        make_task(TaskSettings(name="humaneval", path=str(directory / "nowhere")))
    with pytest.raises(ValueError, match=r"task\.test_size is 2, but the test split has only 1"):
        make_task(TaskSettings(name="humaneval", path=str(directory), test_size=2)).prompts("test")
    write(directory, "mbpp_sanitized.jsonl", [TASK])
    with pytest.raises(ValueError, match=r"mbpp_sanitized\.jsonl contains no problems of the split"):
        make_task(TaskSettings(name="mbpp", path=str(directory))).prompts("test")


def _solutions(name: str) -> dict[str, str]:
    with (DATA / name).open(encoding="utf-8") as lines:
        return {row["id"]: row["solution"] for row in map(json.loads, lines)}


def mutated(prompt: str, solution: str, entry_point: str) -> str:
    """The solution with every result of the entry point replaced by something else."""
    tree = ast.parse(prompt + solution)
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry_point]
    inner = ast.unparse(function).replace("\n", "\n    ")
    header = "\n".join(ast.unparse(node) for node in tree.body if node is not function)
    wrapped = f"def {entry_point}(*a, **k):\n    {inner}\n    r = {entry_point}(*a, **k)\n"
    return f"```python\n{header}\n{wrapped}    return (not r) if isinstance(r, (bool, type(None))) else [r, r]\n```"


@runs_code
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "humaneval.jsonl").is_file(), reason=f"no HumanEval in {DATA}; set BONRL_DATA")
def test_all_of_humaneval() -> None:
    task: Any = make_task(TaskSettings(name="humaneval", path=str(DATA)))
    prompts, solutions = task.prompts("test"), _solutions("humaneval.jsonl")
    assert len(prompts) == 164
    verdicts = {prompt.id: task.verify(prompt, solutions[prompt.id]) for prompt in prompts}
    assert not [(name, verdict) for name, verdict in verdicts.items() if verdict.status is not Status.CORRECT]
    for prompt in prompts:
        response = mutated(prompt.text, solutions[prompt.id], prompt.reference["entry_point"])
        verdict = task.verify(prompt, response)
        assert verdict.status in (Status.WRONG, Status.CRASH), (prompt.id, verdict)
    task.close()


@runs_code
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mbpp.jsonl").is_file(), reason=f"no MBPP in {DATA}; set BONRL_DATA")
def test_all_of_mbpp() -> None:
    task: Any = make_task(TaskSettings(name="mbpp", path=str(DATA), sandbox=SandboxSettings(wall_seconds=60.0)))
    assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [374, 90, 257]
    for split, file in (("train", "mbpp.jsonl"), ("validation", "mbpp.jsonl"), ("test", "mbpp_sanitized.jsonl")):
        solutions = _solutions(file)
        for prompt in task.prompts(split):
            verdict = task.verify(prompt, f"```python\n{solutions[prompt.id]}\n```")
            assert verdict.status is Status.CORRECT, (prompt.id, verdict)
    task.close()
