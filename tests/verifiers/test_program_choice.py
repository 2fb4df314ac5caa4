"""Which part of a response is the program, and where the body of a prompt's function goes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from verifiers.programs.extraction import program_of

SCRIPT = "n = int(input())\nprint(n + 1)\n"
MAIN = "def main():\n    print(int(input()) + 1)\n"
SOLVE = "def solve(n):\n    return n + 1\n"
ADD = "def add(a, b):\n    return a + b\n"


def fenced(code: str, label: str = "python") -> str:
    return f"```{label}\n{code}```\n"


def printed(program: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    assert program is not None
    monkeypatch.setattr("sys.stdin", io.StringIO("4\n"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    return out.getvalue().strip()


@pytest.mark.parametrize(
    "response",
    [
        # blocks that show output, input, a command or an example, or nothing
        *(f"{fenced(SCRIPT, '')}Output:\n{fenced(f'{text}{chr(10)}', '')}" for text in ("5", "YES", "1 2 3", "[1, 2]")),
        f"{fenced(SCRIPT, '')}For the input\n{fenced('4' + chr(10), '')}it prints\n{fenced('5' + chr(10), '')}",
        f"{fenced(SCRIPT, '')}Example:\n```\nInput: 4\nOutput: 5\n```",
        f"{fenced(SCRIPT, '')}Run it:\n```\npython solution.py < input.txt\n```\n",
        f"{fenced(SCRIPT, 'tool_code')}\n```tool_outputs\n5\n```",
        *(
            f"{fenced(SCRIPT, label)}Output:\n```\n5\n```"
            for label in ("solution.py", "python-3", "python3.12", "pypy3")
        ),
        f"{fenced(SCRIPT)}\n```python\n\n```",
        f"{fenced(SOLVE + 'print(solve(int(input())))' + chr(10))}Test:\n{fenced('assert solve(1) == 2' + chr(10))}",
        *(
            f"{fenced(SCRIPT)}A test:\n{fenced(example + chr(10))}"
            for example in ("print(4 + 2)", "import subprocess\nsubprocess.run(['true'])", "def test():\n    return 0")
        ),
        f"{fenced(MAIN)}Run:\n{fenced('main()' + chr(10))}",
        f"{fenced('import sys' + chr(10) + 'print(int(sys.stdin.read()) + 1)' + chr(10))}Or\n{fenced('print(0)')}",
        # helpers, with an import that must be at the beginning
        f"{fenced(SOLVE)}\n{fenced('from __future__ import annotations' + chr(10) + 'print(solve(int(input())))')}",
        f"{fenced('from operator import add' + chr(10))}\n{fenced('print(add(int(input()), 1))' + chr(10))}",
        # the prompt opened the block
        *(f"{code}```\nThis reads n." for code in (f"# Read n\n{SCRIPT}", "print(int(input()) + 1)\n")),
        *(f"{code}```\nThis reads n." for code in ("n, = map(int, input().split())\nprint(n + 1)\n", f"\n{SCRIPT}")),
        "for line in [input()]:\n    print(int(line) + 1)\n```\nThis reads lines.",
        # the label, a space or other line ends before or in the program
        f"```\npython\n{SCRIPT}```",
        f"```\nPython3\n{SCRIPT}```",
        f" Here's the solution:\n\n{fenced(SCRIPT, '')}",
        f" {SCRIPT}",
        SCRIPT.replace("\n", "\r"),
        # prose after it
        *(
            f"{SCRIPT}\n{prose}"
            for prose in ("Explanation\nIt adds one.", "解释：这段代码读取输入。", "---\nDone", "Output\n5", "It’s it")
        ),
        f"代码如下：\n{SCRIPT}这段代码读取输入并输出结果。",
    ],
)
def test_the_script_is_found(response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(program_of(response), monkeypatch) == "5"


def test_a_star_import_of_an_unknown_module_is_no_error() -> None:
    code = f"from sympy import *\n{SCRIPT}"
    assert program_of(f"{fenced('import math' + chr(10))}and\n{fenced(code)}") == f"import math\n{code}"


def test_the_last_of_several_scripts_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("python", ""):
        for other in ("print(0)\n", "input()\nprint(0)\n"):
            blocks = f"{fenced(other, label)}No:\n{fenced(SCRIPT, label)}"
            assert printed(program_of(blocks), monkeypatch) == "5"
        blocks = f"{fenced(SCRIPT, label)}No:\n{fenced(other, label)}"
        assert printed(program_of(blocks), monkeypatch) == "0"


DOC = '    """Add."""\n'
HEAD = "def add(a, b):\n"


@pytest.mark.parametrize(
    "prompt",
    [
        HEAD + DOC,
        HEAD,
        HEAD.rstrip(),
        (HEAD + DOC).rstrip(),
        'from typing import List\n\n\ndef add(a, b):\n  """Add."""\n',
        'def add(a, b):\n\t"""Add."""\n',
    ],
)
@pytest.mark.parametrize(
    "response",
    [
        ADD,
        f" {ADD}",
        fenced(ADD),
        fenced(f"from __future__ import annotations\n\n{ADD}"),
        f"from __future__ import annotations\n\n{ADD}",
        f"{fenced(ADD, '')}Output:\n{fenced('5' + chr(10), '')}",
        "    return a + b\n",
        "return a + b\n",
        " return a + b",
        "\n    return a + b\n",
        fenced("return a + b\n"),
        fenced("    c = a + b\n    return c\n"),
        "    c = a + b\n    return c\n",
        "  c = a + b\n  return c\n",
        "\tc = a + b\n\treturn c\n",
        fenced("if a:\n    c = a + b\n    return c\nreturn b\n"),
        "    # a comment\n# at the margin\n    return a + b\n",
        "    return a \\\n+ b\n",
        "return a + b\n```\nThis adds.",
        "Here is the body:\n\n    return a + b\n",
        f"    return a + b\n\nUsage:\n{fenced('print(add(1, 2))' + chr(10))}",
        "    return total(a, b)\n\n\ndef total(*x):\n    return sum(x)\n\n\nprint(add(1, 2))\n",
    ],
)
def test_a_prompt_is_continued(prompt: str, response: str) -> None:
    space: dict[str, Any] = {}
    exec(compile(program_of(response, prompt=prompt, entry_point="add") or "", "<program>", "exec"), space)
    assert space["add"](2, 3) == 5


@pytest.mark.parametrize("first", ["   c = a + b\n", "c = a + b\n"])
def test_a_first_line_that_lost_its_indentation(first: str) -> None:
    space: dict[str, Any] = {}
    exec(program_of(f"{first}    return c\n", prompt=HEAD + DOC, entry_point="add") or "", space)
    assert space["add"](2, 3) == 5


@pytest.mark.parametrize("prompt", [HEAD + DOC, HEAD])
@pytest.mark.parametrize("introduction", ["", "Here is the rest of the function.\n\n"])
@pytest.mark.parametrize(
    "body",
    [
        "c = a\nc += b\nreturn c\n",
        " c = a\nc += b\nreturn c",
        "# add them\nc = a + b\n\nreturn c",
        "c = a\nfor x in [b]:\n    c += x\nreturn c\n",
        "while a > 99:\n    a -= 1\nreturn a + b\n",
        "if a > 99:\n    return 0\nreturn a + b\n",
        "try:\n    return a + b\nexcept TypeError:\n    return None\n",
        "import math\nreturn int(math.fsum([a, b]))\n",
        "def inner(x):\n    return x + b\nreturn inner(a)\n",
        "c = [a,\n b]\nreturn sum(c)\n",
        "c = a + b\nreturn c\n\n# Test\nprint(add(1, 2))\n",
        "c = a + b\nreturn c\n\nThis adds the two numbers.\n",
        "c = a + b\nreturn c\n\nif __name__ == '__main__':\n    print(add(1, 2))\n",
        "c = total(a, b)\nreturn c\n\n\ndef total(*x):\n    return sum(x)\n",
        "c = a + b\nreturn c<|im_end|>\nreturn 0\n",
    ],
)
def test_a_body_that_lost_its_indentation(prompt: str, introduction: str, body: str) -> None:
    space: dict[str, Any] = {"__name__": "program"}
    exec(program_of(introduction + body, prompt=prompt, entry_point="add") or "", space)
    assert space["add"](2, 3) == 5


def test_a_later_script_may_read_in_any_way_and_a_variable_may_be_called_input() -> None:
    later = "import os\nprint(int(os.read(0, 99)) + 1)\n"
    assert "os.read" in (program_of(f"{fenced(SCRIPT)}Faster:\n{fenced(later)}") or "")
    draft, final = "def solve(input):\n    return input * 2\n", "def solve(n):\n    return n * 3\n"
    assert "* 3" in (program_of(f"{fenced(draft)}No:\n{fenced(final)}") or "")


def test_a_line_is_continued_where_the_prompt_stops() -> None:
    for prompt, response in ((f"{HEAD}    return", " a + b\n"), (f"{HEAD}    return a ", "+ b\n")):
        space: dict[str, Any] = {}
        exec(program_of(response, prompt=prompt, entry_point="add") or "", space)
        assert space["add"](2, 3) == 5


@pytest.mark.parametrize("order", [1, -1])
def test_definitions_of_another_block_are_added(order: int) -> None:
    blocks = [
        fenced("def total(a, b):\n    return sum([a, b])\n"),
        fenced("def add(a, b):\n    return total(a, b)\n"),
    ]
    space: dict[str, Any] = {}
    exec(program_of("and\n".join(blocks[::order]), entry_point="add") or "", space)
    assert space["add"](2, 3) == 5


def test_usage_in_a_block_after_a_program_without_a_fence() -> None:
    for label in ("python", ""):
        program = program_of(f"{ADD}\nUsage:\n\n{fenced('print(add(1, 2))' + chr(10), label)}")
        assert program is not None and program.startswith(ADD)


@pytest.mark.parametrize("hostile", ["```\nx()\n```\n", "def f(x):\n x\n", "    " + "(" * 500 + "\n", "\ta\n b\n"])
def test_hostile_bodies_are_quick(hostile: str) -> None:
    import time

    started = time.process_time()  # not wall time: the machine may be busy
    for prompt in ("", HEAD):
        program_of((hostile * 200_000)[:200_000], prompt=prompt, entry_point="add" if prompt else None)
    assert time.process_time() - started < 4.0
