"""A program on stdin and stdout, run as ``python solution.py`` runs it: its surroundings, its exit and its last output.

The fork server's interpreter starts without ``site``, and a candidate ends with ``os._exit``. So this module sets up
what a script finds at its start, and does what Python does at its end (Python's own shutdown takes about 20 ms).
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import errno
import functools
import gc
import inspect
import io
import linecache
import os
import resource
import site
import sys
import threading
import types
from typing import Any

from . import kernel

FILE = "/solution.py"
"""What a program sees as its own file. No such file exists, so its name does not reveal the sandbox's directory."""

_MOST_FRAMES = 2**31 - 1  # a C integer
_FLUSH_FAILED = 120  # exit status of Python where its standard output could not be flushed

# Files that every process has open. Not every level lets a program open them by name, so their descriptors are copied.
_STANDARD = {f"{place}/{number}": number for place in ("/dev/fd", "/proc/self/fd") for number in range(3)}
_STANDARD |= {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2, os.devnull: 2}


def prepare() -> None:
    """Prepare this interpreter for running scripts. Called once, in the fork server."""
    site.setquit()
    site.setcopyright()
    site.sethelper()
    sys.argv = [os.path.basename(FILE)]
    sys.orig_argv = [sys.executable, *sys.argv]
    _patch_open()
    _patch_fstat()
    _patch_setrlimit()


def _standard(file: Any) -> int | None:
    """The descriptor behind the name of a standard file."""
    return _STANDARD.get(os.fsdecode(file)) if isinstance(file, (str, bytes, os.PathLike)) else None


def _patch_open() -> None:
    real_open, real_os_open = io.open, os.open

    @functools.wraps(real_open)
    def opened(file: Any, *arguments: Any, **named: Any) -> Any:
        number = _standard(file)
        try:
            return real_open(file if number is None else os.dup(number), *arguments, **named)
        except PermissionError:
            # Where no file is opened at all, a program that tries `input.txt` first has to find that it is absent.
            mode = arguments[0] if arguments else named.get("mode", "r")
            if isinstance(file, str) and not os.path.isabs(file) and mode in ("r", "rt", "rb"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file) from None
            raise

    @functools.wraps(real_os_open)
    def os_opened(path: Any, *arguments: Any, **named: Any) -> int:
        number = _standard(path)
        return real_os_open(path, *arguments, **named) if number is None else os.dup(number)

    builtins.open = io.open = opened
    os.open = os_opened


def _patch_fstat() -> None:
    real = os.fstat

    @functools.wraps(real)
    def fstat(fd: int) -> os.stat_result:
        try:
            return real(fd)
        except PermissionError:
            # The C library asks by a call that could also look at files by name. Many programs read stdin at one go,
            # with the size that this says.
            return kernel.status_of(fd)

    os.fstat = fstat


def _patch_setrlimit() -> None:
    real = resource.setrlimit

    @functools.wraps(real)
    def setrlimit(kind: int, limits: tuple[int, int], /) -> None:
        try:
            real(kind, limits)
        except ValueError:
            # A program that wants a deeper stack than the machine grants has the deepest one already.
            if kind != resource.RLIMIT_STACK:
                raise

    resource.setrlimit = setrlimit


def count_recursion_from_here() -> None:
    """Leave out of the recursion limit what is on the stack now, so that a program may recurse as deep as a script."""
    # This frame stands for that of the caller of the program; one more is the C function that executes it.
    below, frame = 1, inspect.currentframe()
    while frame is not None:
        below, frame = below + 1, frame.f_back
    real = sys.setrecursionlimit
    shown = sys.getrecursionlimit()

    @functools.wraps(real)
    def setrecursionlimit(limit: int, /) -> None:
        nonlocal shown
        real(min(limit + below, _MOST_FRAMES) if limit > 0 else limit)
        shown = limit

    sys.setrecursionlimit = setrecursionlimit
    sys.getrecursionlimit = lambda: shown
    setrecursionlimit(shown)


def module(name: str) -> types.ModuleType:
    """An empty module for a program's text, under ``name`` in ``sys.modules``: dataclasses, pickle look there."""
    made = types.ModuleType(name)
    made.__dict__.update(__builtins__=builtins, __file__=FILE, __cached__=None)
    sys.modules[name] = made
    return made


def compiled(text: str) -> types.CodeType:
    """The program as code. Raises what ``compile`` raises for text that is not a program."""
    return compile(text.removeprefix("\ufeff"), FILE, "exec", dont_inherit=True)


def run(code: types.CodeType, text: str) -> int:
    """Run a script to the end of its interpreter; returns its exit status, or raises what it did not handle."""
    _streams()
    linecache.cache[FILE] = (len(text), None, text.splitlines(keepends=True), FILE)
    status = 0
    try:
        exec(code, vars(module("__main__")))
    except SystemExit as leaving:
        status = exit_status(leaving)
        if status:
            raise
    return status or finish()


def _streams() -> None:
    """Standard files for the descriptors of this process: those of the server would report that they can seek."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        file: Any = open(number, mode, encoding="utf-8", errors=errors, newline="\n", closefd=False)
        file.buffer.raw.name = f"<{name}>"
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)


def exit_status(leaving: SystemExit) -> int:
    """The exit status that Python has for the argument of ``sys.exit``: text goes to stderr and means 1."""
    value = leaving.code
    if isinstance(value, int):
        return int(value) & 0xFF
    return 0 if value is None else 1


def finish() -> int:
    """What Python does at its end, in its order: threads, exit handlers, output, objects; returns the exit status."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    flushed = _flush()
    sys.modules.pop("__main__", None)
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    # The program's objects only: those of the server are frozen. Finalisers may print, files flush their buffers.
    gc.collect()
    for held in gc.get_objects():
        # Something outside of the program still refers to it, such as `builtins`, into which it put a function.
        if type(held) is dict and held.get("__file__") == FILE and "__builtins__" in held:
            for name in [name for name in held if name != "__builtins__"]:
                held[name] = None
    gc.collect()
    _flush()
    return 0 if flushed else _FLUSH_FAILED


def _flush() -> bool:
    """Flush standard output and error, whatever the program has put there; False where one of them refuses."""
    done = True
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            if file is None or file.closed:
                continue
        try:
            file.flush()
        except BaseException:  # noqa: BLE001  (the program may have put anything there)
            done = False
    return done
