"""The console on which bonrl writes."""

import sys

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """A console with colors and live displays on a terminal only.

    Notebooks and CI services set FORCE_COLOR, by which rich would take a pipe for a terminal: every refresh of a live
    display would stay in the notebook or the log.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, force_terminal=None if stream.isatty() else False)
