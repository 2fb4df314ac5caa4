"""The console on which bonrl writes, and tables on it."""

import sys

from rich.console import Console
from rich.table import Table

WIDE = 120  # characters


def make_console(*, stderr: bool = False) -> Console:
    """A console with colors and live displays on a terminal only.

    Notebooks and CI services set FORCE_COLOR, by which rich would take a pipe for a terminal: every refresh of a live
    display would stay in the notebook or the log.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, force_terminal=None if stream.isatty() else False)


def print_table(table: Table) -> None:
    """Print at once; a file or a pipe gets lines of WIDE characters, which hold every table unbroken."""
    console = make_console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
    console.file.flush()
