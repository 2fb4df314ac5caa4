"""Tables on the terminal."""

from rich.console import Console
from rich.table import Table

WIDE = 120  # characters


def print_table(table: Table) -> None:
    """Print at once; a file or a pipe gets lines of WIDE characters, which hold every table unbroken."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table)
    console.file.flush()
