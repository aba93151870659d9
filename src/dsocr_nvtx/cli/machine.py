"""Commands about the machine rather than a run: `ceilings` and `doctor`. Imports nothing slow: help is instant."""

from pathlib import Path
from typing import Annotated

import typer

from dsocr_nvtx.cli.outputs import ForceFile


def ceilings_command(
    out: Annotated[Path, typer.Option("-o", "--out", help=".arrow (for join --ceilings), .parquet, .csv or .json")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and shorter runs: under 25 s on an H200.")
    ] = False,
    device: Annotated[str, typer.Option(help="cuda:N")] = "cuda:0",
    force: ForceFile = False,
) -> None:
    """Measure the roofs of this GPU: matrix products, vector units, memory, L2 and launching; under 90 s."""
    from dsocr_nvtx.cli.ceilings import ceilings

    ceilings(out, device=device, quick=quick, force=force)


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what can be captured here and what is missing, with the command that mends it. Ends with exit code 0."""
    from dsocr_nvtx.cli.doctor import doctor

    doctor(as_json=as_json)
