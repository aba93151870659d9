"""What commands share: their input and `--force`, as they declare it, and how they say what they wrote."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dsocr_nvtx.errors import Unprinted, printable

Joined = Annotated[
    Path, typer.Argument(metavar="OUT", help="What `join` wrote; of many reports: all, or one as OUT/REPORT.")
]
ForceFile = Annotated[bool, typer.Option("--force", help="Replace a file of that name.")]
ForceDirectory = Annotated[
    bool, typer.Option("--force", help="Replace an output directory that an earlier join wrote.")
]


def tell(text: str) -> None:
    """Print a text that may quote paths."""
    print(printable(text))


@contextmanager
def written(what: str) -> Iterator[None]:
    """Let a standard output that takes no more end with a line that also says what is written all the same."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except Unprinted as error:
        raise Unprinted(f"{error}; {what}") from error
