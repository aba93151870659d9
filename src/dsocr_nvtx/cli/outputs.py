"""What commands share that write: `--force`, as they declare it; refusing is `schema.files`' part."""

from typing import Annotated

import typer

ForceFile = Annotated[bool, typer.Option("--force", help="Replace a file of that name.")]
ForceDirectory = Annotated[
    bool, typer.Option("--force", help="Replace an output directory that an earlier join wrote.")
]
