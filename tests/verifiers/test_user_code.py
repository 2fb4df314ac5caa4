"""The loader of user code: references, modules loaded once, and errors that name file and line."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from verifiers import user_code
from verifiers.user_code import (
    UserCodeError,
    describe_error,
    files_of,
    load,
    parse,
    place_of,
    sha256,
    traceback_of,
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Every test has its own modules and path."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(user_code, "_loaded", {})
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_loaded_once_and_can_be_imported_back(tmp_path: Path) -> None:
    write(tmp_path / "my_helper.py", "import my_reward\nBONUS = 2\n")
    file = write(
        tmp_path / "my_reward.py",
        "COUNT = []\nCOUNT.append(1)\nimport my_helper\nclass Note: pass\n"
        "def score(x):\n    return x + my_helper.BONUS\n",
    )
    score = load(f"{file}:score")
    assert score(1) == 3 and load("my_reward.py:score") is score
    import my_reward  # type: ignore[import-not-found]

    assert my_reward.score is score and my_reward.COUNT == [1]
    assert pickle.loads(pickle.dumps(my_reward.Note())).__class__ is my_reward.Note
    assert place_of(score) == f"{file}, line 5"
    assert sha256(parse("my_reward.py:score")) == sha256(parse(f"{file}:score"))


def test_names_of_other_modules_do_not_clash(tmp_path: Path) -> None:
    """A user's json.py is loaded, and `import json` still means the standard library."""
    file = write(tmp_path / "json.py", "def score(x):\n    return 7\n")
    other = write(tmp_path / "other" / "json.py", "def score(x):\n    return 8\n")
    assert (load(f"{file}:score")(0), load(f"{other}:score")(0)) == (7, 8)
    import json

    assert json.loads("[1]") == [1]


@pytest.mark.parametrize(
    "source",
    [
        "from shared import value\ndef score(x):\n    return value()\n",
        "from shared import VALUE\ndef score(x):\n    return VALUE\n",
        "def score(x):\n    import shared\n    return shared.VALUE\n",
        "from neighbor import VALUE\ndef score(x):\n    return VALUE\n",
    ],
)
def test_a_neighbor_of_another_file_is_not_taken_for_its_own(tmp_path: Path, source: str) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "shared.py", f"VALUE = {folder!r}\ndef value():\n    return VALUE\n")
        write(tmp_path / folder / "reward.py", source)
    write(tmp_path / "a" / "neighbor.py", "from shared import VALUE\n")
    write(tmp_path / "b" / "neighbor.py", "VALUE = 'c'\n")
    assert load("a/reward.py:score")(0) == "a"
    with pytest.raises(UserCodeError, match=r"b/reward\.py imports \w+, which is .*a/\w+\.py .* rename one"):
        load("b/reward.py:score")


def test_a_copy_of_a_neighbor_stands_for_it(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "shared.py", "VALUE = 3\n")
        write(tmp_path / folder / "reward.py", "from shared import VALUE\ndef score(x):\n    return VALUE\n")
    assert load("a/reward.py:score")(0) == load("b/reward.py:score")(0) == 3


def test_a_neighbor_with_the_name_of_a_package_of_bonrl_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "verifiers" / "__init__.py", "VALUE = 1\n")
    write(tmp_path / "mine.py", "from helper import VALUE\n")
    write(tmp_path / "helper.py", "from verifiers import VALUE\n")
    with pytest.raises(UserCodeError, match=r"helper\.py imports verifiers, which is .* rename one"):
        load("mine.py:VALUE")
    write(tmp_path / "cluster.py", "VALUE = 2\n")  # nothing has imported bonrl's own yet, in a process for rewards
    write(tmp_path / "other.py", "from cluster import VALUE\n")
    with pytest.raises(UserCodeError, match=r"other\.py imports cluster, which is .*__init__\.py .* rename one"):
        load("other.py:VALUE")
    with pytest.raises(UserCodeError, match=r"no module 'verifiers\.mine', because 'verifiers' is .*give a file"):
        load("verifiers.mine:VALUE")
    write(tmp_path / "verifiers" / "user_code.py", "")  # another copy of bonrl: its code may import bonrl
    with pytest.raises(UserCodeError, match=r"cannot import name 'VALUE'"):
        load("mine.py:VALUE")


def test_a_file_with_a_dot_in_its_name_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "my.reward.py", "def score(x):\n    return x\n")
    assert load("my.reward.py:score")(3) == 3
    found = files_of(parse("my.reward.py:score"))
    assert found is not None and set(map(str, found[1])) == {"my.reward.py"}


def test_a_package_is_loaded_once(tmp_path: Path) -> None:
    write(tmp_path / "twice" / "__init__.py", "def score(x):\n    return x\n")
    assert load("twice/__init__.py:score") is load("twice:score")


def test_only_readable_python_files_next_to_the_file_are_copied(tmp_path: Path) -> None:
    for name in ("reward.py", "helper.py", ".hidden.py"):
        write(tmp_path / name, "x = 1\n")
    (tmp_path / ".#reward.py").symlink_to("nobody@nowhere")  # an editor's lock
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "folder.py").mkdir()
    found = files_of(parse("reward.py:x"))
    assert found is not None and set(map(str, found[1])) == {"reward.py", "helper.py"}


def test_an_error_without_text_is_described() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(Odd()) == "Odd: its text cannot be made, RuntimeError"


def test_all_errors_of_a_group_are_described_and_causes_end() -> None:
    try:
        raise ExceptionGroup("two failed", [ValueError("first"), KeyError("second")])
    except ExceptionGroup as error:
        text = traceback_of(error)
    assert "two failed" in text and "ValueError: first" in text and "KeyError: 'second'" in text
    circle = ValueError("circle")
    circle.__cause__ = KeyError("inner")
    circle.__cause__.__cause__ = circle
    assert traceback_of(circle) == "ValueError: circle\nKeyError: 'inner'\nwhich caused:"


def test_a_file_of_a_package_is_imported_as_its_module(tmp_path: Path) -> None:
    write(tmp_path / "mypackage" / "__init__.py", "")
    write(tmp_path / "mypackage" / "helper.py", "VALUE = 5\n")
    write(tmp_path / "mypackage" / "reward.py", "from .helper import VALUE\ndef score():\n    return VALUE\n")
    assert load("mypackage/reward.py:score")() == 5
    assert load("mypackage.reward:score") is load("mypackage/reward.py:score")


def test_imports_inside_of_functions_find_files_of_the_same_directory(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "late_helper.py", "VALUE = 3\n")
    write(tmp_path / "sub" / "late.py", "def score():\n    import late_helper\n    return late_helper.VALUE\n")
    assert load("sub/late.py:score")() == 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def score(x):\n    return (\n", ["bad.py, line 2", "SyntaxError"]),
        ("import math\nx = 1 / 0\n", ["bad.py, line 2", "ZeroDivisionError"]),
        ("import sys\nsys.exit(3)\n", ["bad.py, line 2", "sys.exit(3)"]),
        ("import not_a_module_at_all\n", ["bad.py, line 1", "not_a_module_at_all"]),
        ("\nfrom .helper import x\n", ["bad.py, line 2", "import it without the dot", "__init__.py"]),
        ("import json\n\njson.loads('{')\n", ["bad.py, line 3", "JSONDecodeError"]),
        ("def scores(x):\n    return 1\n\nOTHER = 2\n", ["no 'score'", "it defines scores", "did you mean scores?"]),
        ("x = 1\n", ["no 'score'", "no function"]),
    ],
)
def test_what_cannot_be_loaded_is_named_with_file_and_line(tmp_path: Path, source: str, words: list[str]) -> None:
    write(tmp_path / "bad.py", source)
    for _ in range(2):  # the second time too
        with pytest.raises(UserCodeError) as error:
            load("bad.py:score")
        assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("missing.py:score", ["no file missing.py", "working directory"]),
        ("missing.module:score", ["no module 'missing'", "path/to/file.py"]),
        ("reward", ["not a reference", "file.py:name"]),
        ("good.py", ["good.py:NAME", "it defines score"]),
        ("good.py:1x", ["not a reference"]),
        ("good.py:", ["give the name"]),
    ],
)
def test_wrong_references_name_the_form(tmp_path: Path, reference: str, words: list[str]) -> None:
    write(tmp_path / "good.py", "def score(x):\n    return 1\n")
    with pytest.raises(UserCodeError) as error:
        load(reference)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_fixed_file_loads_after_a_failure(tmp_path: Path) -> None:
    file = write(tmp_path / "fixed.py", "x = (\n")
    with pytest.raises(UserCodeError):
        load("fixed.py:score")
    write(file, "def score():\n    return 1\n")
    assert load("fixed.py:score")() == 1
