"""The program in a response: fences inside strings, other fences and labels, and programs without a fence."""

from __future__ import annotations

import time
from typing import Any

import pytest

from verifiers.programs.blocks import fenced_blocks
from verifiers.programs.extraction import program_of
from verifiers.programs.lines import Lexer

TICKS = "```"
AREA = f'''def area(r):
    """Example:
    {TICKS}
    area(1)
    {TICKS}
    """
    return 3*r*r
'''
LABELLED = AREA.replace(f"{TICKS}\n    area", f"{TICKS}python\n    area")
AT_MARGIN = f'''"""
Usage:

{TICKS}
area(1)
{TICKS}
"""
def area(r):
    return 3*r*r
'''
STRING = f"""HELP = '''
{TICKS}python
no "quotes" closed
{TICKS}
'''
def area(r):
    return 3*r*r  # it's {TICKS}x{TICKS}
"""
PLAIN = "def area(r):\n    return 3*r*r\n"
OLD = f"{TICKS}python\ndef area(r):\n    return 0\n{TICKS}\n"


def indented(text: str, by: str) -> str:
    return "".join(by + line if line.strip() else line for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    "code", [AREA, LABELLED, AT_MARGIN, STRING, PLAIN], ids=["inner", "label", "margin", "str", "no"]
)
@pytest.mark.parametrize(
    "form",
    [
        "```python\n{code}```",
        "```python\n{code}```\nIt uses `r`.\n",
        "```Python3\n{code}```",
        "```python3.11\n{code}```",
        "```py title=area.py\n{code}```",
        "``` {{.python}}\n{code}```",
        "```\n{code}```",
        "~~~python\n{code}~~~",
        "~~~~\n{code}~~~~",
        "````python\n{code}````",
        "````markdown\n```python\n{code}```\n````\n",
        "```markdown\n```python\n{code}```\n```\nDone.",
        "```\n```python\n{code}```\n```\n",
        "```python\n{code}",
        "Here it is: ```python\n{code}```",
        "```python\n{code}```That is all, it's easy.\n\nIt takes r.",
        "```text\nsome ``` inside\n```\n```python\n{code}```\n```\n12\n```",
        "{old}No, better:\n```python\n{code}```",
        "```python\ndef area(r):\n    return 0\nWait, once more:\n```python\n{code}```",
        '```bash\nprintf \'"""\'\n```\n```python\n{code}```',
        'It\'s a """ here.\n```python\n{code}```',
        "{code}",
    ],
)
def test_fences(form: str, code: str) -> None:
    program = program_of(form.format(code=code, old=OLD))
    assert program is not None
    space: dict[str, Any] = {}
    exec(compile(program, "<program>", "exec"), space)
    assert space["area"](2) == 12


@pytest.mark.parametrize("code", [AREA, LABELLED, PLAIN])
@pytest.mark.parametrize("by", ["   ", "        ", "\t"])
def test_indented_fences(code: str, by: str) -> None:
    program = program_of(f"1. So:\n\n{indented(f'{TICKS}python{chr(10)}{code}{TICKS}', by)}\n\n2. Done.")
    assert program == code


def test_a_line_of_a_string_keeps_its_indentation_in_an_indented_fence() -> None:
    """Lines indented less than their fence keep their indentation, and do not shift the others."""
    response = f"  {TICKS}python\n  x = '''\na\n    b\n'''\n  print(x)\n  {TICKS}"
    assert program_of(response) == "x = '''\na\n  b\n'''\nprint(x)\n"


def test_blank_lines_of_a_string_keep_their_spaces() -> None:
    code = 'r"""Prints a frame."""\nprint("""\n+--+\n    \n+--+\n""")\n'
    for response in (code, f"{TICKS}python\n{code}{TICKS}", f"~~~\n{code}~~~\n"):
        assert program_of(response) == code


def test_a_fence_behind_the_last_line_closes_the_block() -> None:
    assert program_of("```python\nprint(1)```\nThat prints 1.") == "print(1)\n"
    assert program_of("```python\nx = 1 # ```\nprint(x)\n```") == "x = 1 # ```\nprint(x)\n"


@pytest.mark.parametrize(
    "broken",
    [
        '```python\ndef area(r):\n    """no end\n    return 0\n```\n',
        "```\nTraceback: '''\n```\n",
        "```python\ns = '''\n```\n",
    ],
)
def test_a_string_that_never_ends_hides_no_fence(broken: str) -> None:
    blocks = fenced_blocks(broken + "so")
    assert len(blocks) == 1 and "so" not in blocks[0][1]
    program = program_of(f"{broken}Fixed:\n```python\n{PLAIN}```\n")
    assert program == PLAIN


@pytest.mark.parametrize(
    "code",
    [
        "print(0.1+0.2)\n",
        "import time\ntime.sleep(0.4)\nprint(int(input())+1)\n",
        "a, b = map(int, input().split())\nprint(a + b)\n",
        "a = [\n1, 2,\n3]\nmain()\n",
        "[print(i) for i in range(3)]\n",
        "(n, m), k = (1, 2), 3\nprint(n)\n",
        "x: int = 3\nwhile x > 0:\n    x -= 1\nelse:\n    print('a b c')\n",
        "import sys\n\ninput = sys.stdin.readline\n\n\ndef main(): pass\n\n\nif __name__ == '__main__': main()\n",
        "'''About it.'''\nprint(1)\n",
        "x = 1\nx += 1\nx //= 2\nassert x == 1, 'it is not'\ndel x\n",
        "print('''\nNow some text at the margin.\n''')\nprint(2)\n",
        "from math import *\nprint(pi if 1 < 2 else not e)\n",
        "try:\n    n = int(input())\nexcept ValueError:\n    raise SystemExit\nfinally:\n    pass\nprint(n)\n",
        "match input():\n    case 'a':\n        print(1)\nprint(2)\n",
        "n = int(input())\nif n != 1: print('one'); exit()\nprint('many')\n",
        "s = 'it\\'s'  # don't stop\nprint(s)\n",
        "@decorated\nclass A: pass\nlambda x: x\nx.y[0].z = 3\nx.y()\n",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "Here is the code:\n\n{}",
        "{}\nExplanation:\n- read it\n",
        "{}\nIt prints it. Done.",
        "{}\nLet's see (in short).",
        "{}\n**Note** that",
        "Let us see, for example:\n\n{}\n> Quoted.",
    ],
)
def test_a_program_without_a_fence(code: str, form: str) -> None:
    program = program_of(form.format(code))
    assert program is not None and program.strip() == code.strip()


@pytest.mark.parametrize(
    "text", ["Answer: 42", "It is 5.", "f is linear", "The answer is print", "", "1. First", "Done."]
)
def test_prose_is_no_program(text: str) -> None:
    assert program_of(text) is None


@pytest.mark.parametrize(
    "hostile", ['```\n"""\n', "```python\n'''\n```\n", '"""\n```\n', "x = 1\n```a\n", "~~~\n", "a b\n"]
)
def test_hostile_fences_are_quick(hostile: str) -> None:
    started = time.process_time()  # not wall time: the machine may be busy
    program_of((hostile * 200_000)[:200_000])
    assert time.process_time() - started < 2.0


def test_lexer() -> None:
    lexer = Lexer()
    assert lexer.feed("f(a, ['it', # [\n") == 'f(a, ["", \n'
    assert (lexer.quote, lexer.depth) == ("", 2)
    assert lexer.feed("r'''a \\''' \" ''' + x]") == 'r"" + x]'
    assert (lexer.quote, lexer.depth) == ("", 1)
    assert lexer.feed("it's ) here") == "it'"
    assert lexer.feed('x = """ )') == 'x = ""'
    assert (lexer.quote, lexer.depth) == ('"""', 1)


@pytest.mark.parametrize(
    "form",
    [
        "\ufeff{code}",
        "<answer>\n{code}</answer>",
        "Here it is:\n<solution>\n{code}</solution>\nDone.",
        "<code>\n{code}</code>",
        "<pre><code>{code}</code></pre>",
        "[PYTHON]\n{code}[/PYTHON]\n",
        "[BEGIN]\n{code}[DONE]\n",
        "{code}[DONE]\n\nYou are an expert programmer.",
        "\\begin{{lstlisting}}[language=Python]\n{code}\\end{{lstlisting}}",
        "> ```python\n> def area(r):\n>     return 3*r*r\n> ```",
    ],
)
def test_other_wrappers_than_a_fence(form: str) -> None:
    program = program_of(form.format(code=PLAIN))
    assert program is not None
    assert program.strip() == PLAIN.strip()


def test_a_program_on_the_line_of_its_fence() -> None:
    assert program_of("```python print(int(input())+1) ```") == "print(int(input())+1)\n"


def test_the_escapes_of_html_are_resolved_inside_its_tags_only() -> None:
    assert program_of("<pre><code>print(1 &lt; 2)</code></pre>") == "print(1 < 2)\n"
    assert program_of("print('&lt;')\n") == "print('&lt;')\n"


def test_tags_in_a_program_are_its_own() -> None:
    program = "import re\nprint(re.findall('<code>(.*)</code>', input()))\n"
    assert program_of(program) == program


def test_a_block_of_imports_belongs_to_the_program_after_it() -> None:
    response = f"{TICKS}python\nimport math\n{TICKS}\nand\n{TICKS}python\n{PLAIN}{TICKS}"
    assert program_of(response, entry_point="area") == f"import math\n{PLAIN}"
    usage = f"{TICKS}python\nimport math\nprint(1)\n{TICKS}\nand\n{TICKS}python\n{PLAIN}{TICKS}"
    assert program_of(usage, entry_point="area") == PLAIN


ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    "response",
    [
        "# Solution\nHere is the code:\n\n" + ADD,
        ">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n",
    ],
)
def test_programs_without_a_fence(response: str) -> None:
    found: dict[str, Any] = {}
    exec(program_of(response, entry_point="add") or "", found)
    assert found["add"](1, 2) == 3


def test_a_body_goes_on_within_brackets() -> None:
    prompt = 'def add(a, b):\n    """Add."""\n'
    found: dict[str, Any] = {}
    exec(program_of("    return (\na\n+ b\n)\nprint(1)\n", prompt=prompt, entry_point="add") or "", found)
    assert found["add"](1, 2) == 3
