"""Tables on the terminal."""

from rich.table import Table

from cluster.telemetry.console import make_console

WIDE = 120  # characters


def print_table(table: Table) -> None:
    """Print at once; a file or a pipe gets lines of WIDE characters, which hold every table unbroken."""
    console = make_console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
    console.file.flush()
