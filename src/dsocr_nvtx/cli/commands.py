"""Every subcommand. Each imports its half of the package when it runs, so that help is instant."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsocr_nvtx import __version__
from dsocr_nvtx.cli.comparison import diff_command, gate_command
from dsocr_nvtx.cli.machine import ceilings_command, doctor_command
from dsocr_nvtx.cli.outputs import ForceDirectory, ForceFile, Joined
from dsocr_nvtx.cli.review import report_command, show_command
from dsocr_nvtx.cli.trace import trace_command
from dsocr_nvtx.run.options import (
    Attention,
    ConfigName,
    Decode,
    DtypeName,
    Experts,
    Mode,
    missing_packages_are_named,
    parse_tiles,
    run_command,
)
from dsocr_nvtx.schema.records import Level

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

Hardware = Annotated[str | None, typer.Option(help="Hold it against the datasheet of this GPU, by its exact name.")]
CeilingsFile = Annotated[
    Path | None, typer.Option(help="Hold it against the roofs in this file: what `ceilings` wrote, or JSON.")
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"dsocr-nvtx {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See how far each layer and stage of a DeepSeek-OCR run is from what the GPU allows, and what holds it back."""


def guide_command(
    topic: Annotated[str | None, typer.Argument(help="A page's name; without it, which pages there are.")] = None,
) -> None:
    """Read the handbook: how things work, and why."""
    from dsocr_nvtx.cli.guide import guide

    guide(topic)


def demo_command(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Also keep tables and review in this directory.")
    ] = None,
    force: ForceDirectory = False,
) -> None:
    """Join a real H200 capture that ships with the package. Needs no GPU and no torch."""
    from dsocr_nvtx.cli.join import demo

    demo(out, force=force)


def overhead_command(
    level: Annotated[Level, typer.Option(help="Finest ranges: per step, per layer, or per operation.")] = Level.OP,
    decode: Annotated[Decode, typer.Option(help="eager: a growing cache; static: one of fixed size.")] = Decode.STATIC,
    mode: Annotated[Mode, typer.Option(help="512, 640, 1024, 1280, or 1024 with tiles of 640.")] = Mode.BASE,
    batch: Annotated[int, typer.Option(min=1, help="Copies of a page.")] = 1,
    rounds: Annotated[int, typer.Option(min=8, help="Steps of each variant.")] = 100,
    config: Annotated[ConfigName, typer.Option(help="Dimensions of the network.")] = ConfigName.TRUE,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N.", show_default="cuda:0")] = None,
    cudnn_sdpa: Annotated[bool, typer.Option("--cudnn-sdpa/--no-cudnn-sdpa", help="Attention may use cuDNN.")] = True,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write it as JSON.")] = None,
    force: ForceFile = False,
) -> None:
    """Measure what hooks cost here: the same decode step with and without them, in turns, in one run."""
    if out is not None:
        # Here already: torch alone takes seconds to import.
        from dsocr_nvtx.schema.files import check_file

        check_file(out, force=force)
    with missing_packages_are_named():
        from dsocr_nvtx.cli.overhead import overhead
        from dsocr_nvtx.run.workload import RunOptions

    options = RunOptions(
        mode=mode.value, batch=batch, config=config.value, device=device, decode=decode.value, level=level.value,
        cudnn_sdpa=cudnn_sdpa,
    )  # fmt: skip
    overhead(options, rounds=rounds, out=out, force=force)


def project_command(
    report: Annotated[Path, typer.Argument(help="Any report of Nsight Systems, hooked by us or not.")],
    out: Annotated[Path, typer.Option("-o", "--out", help=".arrow, .parquet, .csv or .json")],
    beyond_nsys: Annotated[
        bool,
        typer.Option("--beyond-nsys", help="Keep ranges that end on another thread; count graphs traced whole."),
    ] = False,
    force: ForceFile = False,
) -> None:
    """Project NVTX ranges onto the GPU: what `nsys stats -r nvtx_gpu_proj_trace` prints, as a table, faster."""
    from dsocr_nvtx.cli.project import project_report

    project_report(report, out, as_nsys=not beyond_nsys, force=force)


def join_command(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT...", help=".sqlite export or .nsys-rep of Nsight Systems; several, or a quoted pattern."
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="The run's directory: checked against the report. Of several: the one of all ranks."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Default: the report's name with .dsocr; several need it.")
    ] = None,
    hardware: Hardware = None,
    ceilings: CeilingsFile = None,
    force: ForceDirectory = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Several: processes at once.", show_default="one a core")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Several: on this Dask cluster, tcp:// or tls://, whose files are these."),
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Of tls://: the authority that signed, PEM.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Of tls://: this side's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Of tls://: its key, PEM.")] = None,
) -> None:
    """Join a report into tables of every kernel, call, layer and stage, and say what binds each stage.

    Several reports become one data set in --out, TABLE/report=NAME/part.parquet, with merged tables that say which rank
    is slowest and why. Calling it again joins only what is new or has changed. A report that cannot be joined is listed
    and the rest goes on: exit code 1, with a line on stderr; 3 if none could be joined.
    """
    from dsocr_nvtx.fleet.inputs import is_pattern

    if len(reports) > 1 or is_pattern(reports[0]):
        from dsocr_nvtx.cli.fleet import join_reports
        from dsocr_nvtx.fleet.cluster import Tls

        if out is None:
            raise typer.BadParameter("several reports need -o DIRECTORY")
        join_reports(
            reports, run=run, out=out, hardware=hardware, ceilings=ceilings, force=force, workers=workers,
            scheduler=scheduler, tls=Tls(ca=tls_ca, cert=tls_cert, key=tls_key),
        )  # fmt: skip
    else:
        from dsocr_nvtx.cli.join import join_report

        join_report(reports[0], run=run, out=out, hardware=hardware, ceilings=ceilings, force=force)


def ladder_command(
    directory: Joined,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Also write it: .arrow, .parquet, .csv, .json")
    ] = None,
    ceilings: Annotated[Path | None, typer.Option(help="Take the gaps between kernels from this file.")] = None,
    force: ForceFile = False,
) -> None:
    """Say how fast each stage would be without stalls, with free launches, without tax kernels, and at the roof."""
    from dsocr_nvtx.cli.ladder import climb

    climb(directory, out=out, ceilings=ceilings, force=force)


class Logits(StrEnum):
    """Rows of the prompt that the head is computed for."""

    LAST = "last"
    ALL = "all"


def analytic_command(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the rows: .arrow, .parquet, .csv or .json.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="512, 640, 1024, 1280, or 1024 with tiles of 640.")] = Mode.GUNDAM,
    tiles: Annotated[
        str | None,
        typer.Option(metavar="CxR", help="Gundam's grid, columns x rows.", show_default="2x3, that of A4 and Letter"),
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Whole prompt, image included.", show_default="image and a short sentence")
    ] = None,
    decode_tokens: Annotated[int, typer.Option(min=0, help="Decode steps after the prefill.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Pages at once.")] = 1,
    experts: Annotated[
        Experts, typer.Option(help="auto: grouped_mm, and batched_mm to decode, as generate does on a GPU.")
    ] = Experts.AUTO,
    attention: Annotated[Attention, typer.Option()] = Attention.SDPA,
    logits: Annotated[Logits, typer.Option(help="Of the last row, or of the whole prompt.")] = Logits.LAST,
    static_cache: Annotated[int, typer.Option(min=0, help="Slots of a static KV cache; 0: it grows.")] = 0,
    dtype: Annotated[DtypeName, typer.Option(help="Of weights and activations.")] = DtypeName.BFLOAT16,
    config: Annotated[
        Path | None, typer.Option(help="A Hugging Face config.json, native or vendor's.", show_default="DeepSeek-OCR's")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Directory for report.json, report.yaml and layers/.")] = None,
    hardware: Hardware = None,
    ceilings: CeilingsFile = None,
    force: ForceFile = False,
) -> None:
    """Say what a page costs, row by row, without running anything; on a GPU's roofs also its least time."""
    from dsocr_nvtx.analytic.table import PageRequest
    from dsocr_nvtx.cli.analytic import analytic

    is_auto = experts is Experts.AUTO
    request = PageRequest(
        mode=mode.value,
        grid=parse_tiles(tiles) or ((2, 3) if mode is Mode.GUNDAM else (1, 1)),
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        batch=batch,
        dtype=dtype.value,
        attention=attention.value,
        experts="grouped_mm" if is_auto else experts.value,
        decode_experts="batched_mm" if is_auto else None,
        logits=logits.value,
        kv_slots=static_cache,
    )
    analytic(request, config=config, out=out, report=report, hardware=hardware, ceilings=ceilings, force=force)


def mcp_command() -> None:
    """Serve the answers of joins to a coding assistant, as read-only tools of the Model Context Protocol.

    Tools: verdict, budget, rows, kernels, stalls, diff and gate; each figure comes with the table and row that it is
    from. It speaks over standard input and output; an assistant's settings name the command `dsocr-nvtx mcp`.
    """
    from dsocr_nvtx.cli.mcp import serve

    serve()


# In the order of work: what is here, a run, its join, a look, the next run beside it; then what stands alone.
app.command("demo", short_help="Join a real H200 capture that is in the package; no GPU, no torch.")(demo_command)
app.command("doctor", short_help="Say what can be captured here, what is missing, what mends it.")(doctor_command)
app.command("ceilings", short_help="Measure this GPU's roofs, once, for join --ceilings.")(ceilings_command)
app.command("run", short_help="Run the model on page images, hooked, to be profiled.")(run_command)
app.command("join", short_help="Join a report, or many, into tables and the verdict.")(join_command)
app.command("show", short_help="Print a join's verdict, time budget, losses and kernels.")(show_command)
app.command("report", short_help="Write a join's review page, one HTML file.")(report_command)
app.command("ladder", short_help="Say how fast each stage would be without stalls, at the roof.")(ladder_command)
app.command("trace", short_help="Write a join as a trace, for Perfetto.")(trace_command)
app.command("diff", short_help="Compare two joins, row by row, noise counted.")(diff_command)
app.command("gate", short_help="Hold a join against rules; the exit code says whether they hold.")(gate_command)
app.command("analytic", short_help="Say what a page costs; nothing is run.")(analytic_command)
app.command("overhead", short_help="Measure what hooks cost here.")(overhead_command)
app.command("project", short_help="Project any report's NVTX ranges onto the GPU, as nsys does.")(project_command)
app.command("mcp", short_help="Serve a join's answers to a coding assistant, read-only.")(mcp_command)
app.command("guide", short_help="Read the handbook.")(guide_command)
