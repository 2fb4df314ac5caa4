"""The modules that the fork server loads before it forks."""

from __future__ import annotations

import importlib
import os
import sys

PRELOAD = (
    "_strptime abc argparse array ast base64 binascii bisect builtins bz2 calendar cmath codecs collections "
    "collections.abc colorsys concurrent.futures concurrent.futures.thread contextlib contextvars copy copyreg csv "
    "ctypes dataclasses datetime decimal difflib dis doctest encodings.ascii encodings.cp1252 encodings.idna "
    "encodings.latin_1 encodings.unicode_escape encodings.utf_16 encodings.utf_32 encodings.utf_8_sig enum errno "
    "fileinput fnmatch fractions functools gc getopt graphlib hashlib heapq hmac html inspect io itertools json "
    "keyword linecache locale logging lzma marshal math mmap numbers operator os pathlib pickle platform pprint queue "
    "random re resource sched secrets select shlex shutil signal stat statistics string struct subprocess sys "
    "tempfile textwrap threading time timeit token tokenize traceback types typing unicodedata unittest uuid warnings "
    "weakref zlib"
).split()
"""Loaded before the first fork, so every job has them at no cost, even at levels where no file can be opened."""


def load(names: list[str], paths: list[str]) -> tuple[list[str], list[str]]:
    """Import the modules that programs may use; return missing names and the directories of those from ``paths``."""
    for name in PRELOAD:
        importlib.import_module(name)
    own_path = list(sys.path)
    sys.path.extend(paths)
    absent, directories = [], []
    for name in names:
        try:
            file = getattr(importlib.import_module(name), "__file__", None)
        except ImportError:
            absent.append(name)
            continue
        if file and any(file.startswith(path + os.sep) for path in paths) and "." not in name:
            directories += _package_directories(file)
    sys.path[:] = own_path
    return absent, directories


def _package_directories(file: str) -> list[str]:
    """The directory of a package and that of the shared libraries of its wheel."""
    directory = os.path.dirname(file)
    return [directory, directory + ".libs"] if os.path.basename(file).startswith("__init__.") else []
