"""Loads user code that the configuration names: ``path/to/file.py:name``, ``package.module:name``, a file or a module.

A file is loaded once per process. Its module gets a stable name: the name that ``import`` would give it, unless another
module has that name. So decorators, pickling and helper modules that import the file back work.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import platform
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PICKLE = ".pkl"  # a function of a notebook, pickled by value (bonrl.train)
_MAX_TEXT = 4000  # characters of a quoted traceback
_MAX_NAMES = 12
_MAX_CAUSES = 5  # of an error, and in an exception group
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})
# Packages of bonrl that this process may not have loaded yet; verifiers is this one.
_OURS = {name: Path(__file__).parents[1] / name / "__init__.py" for name in ("actors", "bonrl", "cluster", "learner")}
_FOLDERS = tuple(str(file.parent) + os.sep for file in _OURS.values())
_lock = threading.RLock()
_loaded: dict[str, ModuleType] = {}
loading: list[str] = []
"""Sources that this process is loading now, outermost first; so that code can refuse to run while it is imported."""

loaded_plugins: list[str] = []
"""References of the plugins that this process has loaded."""


class UserCodeError(ValueError):
    """User code cannot be loaded or used. The message names the file and, where there is one, the line."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference: a Python file or a module, and the name in it (empty: the whole module)."""

    source: str
    name: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the source is a file, not a module's name."""
        return self.source.endswith((".py", PICKLE)) or "/" in self.source

    @property
    def path(self) -> Path:
        """The file. Relative paths are relative to the working directory, like all paths of the configuration."""
        return Path(self.source).expanduser()


def parse(text: str, *, needs_name: bool = True) -> Reference:
    """Read ``file.py:name`` or ``package.module:name``, or without a name if ``needs_name`` is false.

    Raises:
        UserCodeError: It is neither.
    """
    source, colon, name = text.rpartition(":")
    if not colon:
        source, name = text, ""
    reference = Reference(source.strip(), name.strip())
    form = "path/to/file.py:name or package.module:name" if needs_name else "path/to/file.py or package.module"
    named = all(part.isidentifier() for part in reference.name.split(".")) if reference.name else not needs_name
    if needs_name and not reference.name and reference.is_file and reference.path.is_file():
        raise UserCodeError(f"{text}: give the name in the file too, {text}:NAME; {_offer(load_module(reference))}")
    if not named or not (reference.is_file or all(part.isidentifier() for part in reference.source.split("."))):
        raise UserCodeError(f"{text!r} is not a reference to Python code; write {form}")
    if bool(reference.name) and not needs_name:
        raise UserCodeError(f"{text!r}: a whole file or module is expected here; write {form}")
    return reference


def load(text: str) -> Any:
    """The object that ``text`` names.

    Raises:
        UserCodeError: The code cannot be loaded, or has no such name.
    """
    reference = parse(text)
    if reference.source.endswith(PICKLE):
        return _unpickled(reference.path)
    module: Any = load_module(reference)
    found = module
    for part in reference.name.split("."):
        if not hasattr(found, part):
            raise UserCodeError(f"{_file_of(module)}: there is no {reference.name!r}; {_offer(module, reference.name)}")
        found = getattr(found, part)
    return found


def load_module(reference: Reference) -> ModuleType:
    """The module of a reference, loaded once per process.

    Raises:
        UserCodeError: It is not there, or raises while it is loaded.
    """
    with _lock:
        if not reference.is_file:
            return _import(reference.source, Path.cwd(), reference.source)
        path = reference.path.resolve()
        if not path.is_file():
            raise UserCodeError(
                f"there is no file {reference.source} on {platform.node()} (the working directory is {Path.cwd()}, "
                "where relative paths start); on a cluster every node needs it: `bonrl submit` packs it"
            )
        key = str(path)
        if key not in _loaded:
            root, name = _package_of(path)
            _check_imports(path, root)
            free = root != path.parent or _is_free(name, path)
            _loaded[key] = _import(name, root, key) if free else _execute(path)
        return _loaded[key]


def sha256(reference: Reference) -> tuple[Path, str] | None:
    """The file of a reference and its SHA-256; None if the module has no source file.

    Raises:
        UserCodeError: It cannot be read.
    """
    path = reference.path.resolve() if reference.is_file else _source_of_module(reference.source)
    if path is None:
        return None
    try:
        return path, hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserCodeError(f"{path} cannot be read: {error.strerror or error}") from error


def files_of(reference: Reference, *, packages: bool = False) -> tuple[Path, dict[Path, Path]] | None:
    """The files that a reference needs, so that they can be copied elsewhere.

    They are the Python files in the file's directory, or the whole package that it belongs to.

    Args:
        packages: Whether the packages in this directory are included too.

    Returns:
        (the file, {path in the copy: source}); the first path is in the copy too. None for an installed module.
    """
    path = reference.path.resolve() if reference.is_file else _source_of_module(reference.source)
    if path is None or (not reference.is_file and str(path).startswith(_INSTALLED)):
        return None
    if path.suffix != ".py":
        return Path(path.name), {Path(path.name): path}
    root, name = _package_of(path)
    if root != path.parent:
        found = (root / name.partition(".")[0]).rglob("*.py")
    else:
        found = path.parent.glob("*.py")
        inner = [file.parent for file in path.parent.glob("*/__init__.py")] if packages else []
        found = (file for source in (found, *(folder.rglob("*.py") for folder in inner)) for file in source)
    # Editors leave hidden files and broken links next to the file.
    sources = (file for file in sorted(found) if file.is_file() and not file.name.startswith("."))
    return path.relative_to(root), {file.relative_to(root): file for file in sources}


def place_of(thing: Any) -> str:
    """``my_rewards.py, line 12``: where a function or class is defined; empty if unknown."""
    thing = inspect.unwrap(getattr(thing, "func", thing))
    code = getattr(thing, "__code__", None)
    if code is not None:
        return f"{code.co_filename}, line {code.co_firstlineno}"
    try:
        kind = thing if inspect.isclass(thing) else type(thing)
        return f"{inspect.getsourcefile(kind)}, line {inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return ""


def describe_error(error: BaseException) -> str:
    """One line: the file and line in user code where the error was raised, and the error."""
    if isinstance(error, SyntaxError) and error.filename:
        source = f": {error.text.strip()}" if error.text else ""
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}{source}"
    frames = _user_frames(error)
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001  # the user's own class
        text = f"its text cannot be made, {type(failure).__name__}"
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SystemExit):
        what = f"it called sys.exit({error.code!r})"
    own = [frame for frame in frames if not frame.filename.startswith((*_INSTALLED, *_FOLDERS))] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}: {what}" if own else what


def traceback_of(error: BaseException, outer: tuple[BaseException, ...] = ()) -> str:
    """The error in one line, then its traceback without bonrl's own frames, after those of its causes and of the errors
    in an exception group; bounded in length. `outer` are errors that are being described, since a cause may be one of
    them.
    """
    text = "".join(traceback.format_list(_user_frames(error)))
    outer = (*outer, error)
    group = error.exceptions[:_MAX_CAUSES] if isinstance(error, BaseExceptionGroup) else ()
    for cause in reversed((error.__cause__, *group)):
        if cause is not None and not any(cause is known for known in outer) and len(outer) <= _MAX_CAUSES:
            text = f"{traceback_of(cause, outer)}\nwhich caused:\n{text}"
    return shortened(f"{describe_error(error)}\n{text}".rstrip())


def shortened(text: str, most: int = _MAX_TEXT) -> str:
    """The text, without its middle if it is long, and without halves of surrogate pairs, which cannot be printed."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[: most // 2]}\n[...]\n{text[-most // 2 :]}"


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Frames from the first one outside of bonrl and the import system on; all if there are none."""
    here = (str(Path(__file__).parent) + os.sep, "<frozen importlib")
    frames = list(traceback.extract_tb(error.__traceback__))
    first = next((i for i, frame in enumerate(frames) if not frame.filename.startswith(here)), len(frames))
    while first < len(frames) and frames[first].filename == importlib.__file__:
        first += 1
    return [frame for frame in frames[first:] if not frame.filename.startswith("<frozen importlib")]


def _package_of(path: Path) -> tuple[Path, str]:
    """The directory to import a file from, and its dotted name: files of a package are imported as its modules. Any
    other file has its own directory, and the name of the file.
    """
    parts, root = [] if path.name == "__init__.py" else [path.stem], path.parent
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        parts.insert(0, root.name)
        root = root.parent
    return (root, ".".join(parts)) if parts and all(map(str.isidentifier, parts)) else (path.parent, path.stem)


def _is_free(name: str, path: Path) -> bool:
    """Whether ``import name`` would load this file once its directory is importable."""
    if not name.isidentifier() or path.suffix != ".py":
        return False
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) == str(path)
    with _importable(path.parent):
        importlib.invalidate_caches()
        found = importlib.util.find_spec(name)
    others = importlib.util.find_spec(name)
    return found is not None and found.origin == str(path) and (others is None or others.origin == str(path))


def _check_imports(path: Path, root: Path) -> None:
    """Refuse a file that imports a neighbor whose name another module in this process, or a package of bonrl, has: an
    import would silently give the wrong one. Imports inside functions, and those of the neighbors, count too.
    """
    waiting, seen = [path], {path}
    while waiting:
        file = waiting.pop()
        for name in _imported_names(file):
            own = next((each for each in (root / f"{name}.py", root / name / "__init__.py") if each.is_file()), None)
            if own is None or own in seen or name in sys.stdlib_module_names:
                continue
            found = _OURS.get(name) or getattr(sys.modules.get(name), "__file__", None)
            if found and not _stands_for(Path(found), own, root):
                raise UserCodeError(f"{file} imports {name}, which is {found} and not {own}; rename one of the two")
            seen.add(own)
            waiting.append(own)


def _stands_for(found: Path, own: Path, root: Path) -> bool:
    """Whether a loaded module is the neighbor, a copy of it (as in a run directory), or a module of bonrl while `root`
    is another checkout of bonrl.
    """
    if found.resolve() == own.resolve():
        return True
    here = Path(__file__)
    if found.is_relative_to(here.parents[1]) and (root / here.parent.name / here.name).is_file():
        return True
    return own.name != "__init__.py" and found.is_file() and found.read_bytes() == own.read_bytes()


def _imported_names(path: Path) -> list[str]:
    """First names of all absolute imports in a file; none if it cannot be parsed, which loading it will explain."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return [name.partition(".")[0] for name in names]


@contextlib.contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Put the directory first on the import path while code loads, then last, for imports inside functions."""
    entry = str(directory)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the code may have changed the list
            sys.path.remove(entry)
        if entry not in sys.path:
            sys.path.append(entry)


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns everything that user code raises while it loads into an error with file and line."""
    loading.append(source)
    try:
        yield
    except (UserCodeError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also SystemExit
        hint = ""
        if isinstance(error, ImportError) and "no known parent package" in str(error):
            hint = "; import it without the dot, or put an empty __init__.py into the file's directory"
        raise UserCodeError(f"{source} cannot be loaded: {describe_error(error)}{hint}") from error
    finally:
        loading.pop()


def _import(name: str, root: Path, source: str) -> ModuleType:
    with _importable(root):
        importlib.invalidate_caches()
        try:
            with _explained(source):
                return importlib.import_module(name)
        except UserCodeError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
                package = name.partition(".")[0]
                if cause.name != package:
                    found: Any = sys.modules[package]
                    place = getattr(found, "__file__", None) or next(iter(found.__path__), "")
                    raise UserCodeError(
                        f"there is no module {cause.name!r}, because {package!r} is {place}; give a file "
                        "(path/to/file.py)"
                    ) from cause
                raise UserCodeError(
                    f"there is no module {cause.name!r} in the working directory ({Path.cwd()}) or among the installed "
                    "packages; give a file (path/to/file.py), or install the package (on a cluster, on every node)"
                ) from cause
            raise


def _execute(path: Path) -> ModuleType:
    """Load a file under a name that ``import`` would not find."""
    name = f"bonrl_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserCodeError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent), _explained(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _unpickled(path: Path) -> Any:
    import cloudpickle

    if not path.is_file():
        raise UserCodeError(f"there is no file {path}; it held a function that bonrl.train pickled")
    with _explained(str(path)):
        return cloudpickle.loads(path.read_bytes())


def _source_of_module(name: str) -> Path | None:
    with _importable(Path.cwd()):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _file_of(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _offer(module: ModuleType, wanted: str = "") -> str:
    """The functions and classes of a module, as part of a message."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and callable(value)}
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]
    if not own:
        return "it defines no function and no class"
    near = difflib.get_close_matches(wanted, own, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    more = ", ..." if len(own) > _MAX_NAMES else ""
    return f"it defines {', '.join(own[:_MAX_NAMES])}{more}{hint}"
