"""What commands share that write: `--force`, as they declare it (refusing is `schema.files`' part), and one line."""

from typing import Annotated

import typer

ForceFile = Annotated[bool, typer.Option("--force", help="Replace a file of that name.")]
ForceDirectory = Annotated[
    bool, typer.Option("--force", help="Replace an output directory that an earlier join wrote.")
]


def one_line(text: str) -> str:
    """Return text as one line whatever it quotes: a path or a report's text may hold line ends and terminal codes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
