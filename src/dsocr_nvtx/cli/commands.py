"""Every subcommand. Each imports its half of the package when it runs, so that help is instant."""

from pathlib import Path
from typing import Annotated

import typer

from dsocr_nvtx.run.options import run_command

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("run")(run_command)

Hardware = Annotated[str | None, typer.Option(help="Hold it against the datasheet of this GPU, by its exact name.")]
CeilingsFile = Annotated[Path | None, typer.Option(help="Hold it against the roofs in this JSON file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output directory that an earlier join wrote.")]


@app.callback()
def _about() -> None:
    """See how far each layer and stage of a DeepSeek-OCR run is from what the GPU allows, and what holds it back."""


@app.command("demo")
def demo_command(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also keep the tables in this directory.")] = None,
    force: Force = False,
) -> None:
    """Join a real H200 capture that ships with the package. Needs no GPU and no torch."""
    from dsocr_nvtx.cli.join import demo

    demo(out, force=force)


@app.command("join")
def join_command(
    report: Annotated[Path, typer.Argument(help=".sqlite export or .nsys-rep of Nsight Systems.")],
    run: Annotated[Path | None, typer.Option(help="The run's directory: checked against the report.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: the report's name with .dsocr")] = None,
    hardware: Hardware = None,
    ceilings: CeilingsFile = None,
    force: Force = False,
) -> None:
    """Join a report into tables of every kernel, call, layer and stage, and say what binds each stage."""
    from dsocr_nvtx.cli.join import join_report

    join_report(report, run=run, out=out, hardware=hardware, ceilings=ceilings, force=force)
