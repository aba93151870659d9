"""`report` and `show`: a join's directory in; a page for people, or the verdict in the terminal, out."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dsocr_nvtx.cli.outputs import ForceFile, Joined, tell, written


def report_command(
    directory: Joined,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, .html; the roofline alone, .svg")] = Path(
        "review.html"
    ),
    title: Annotated[str, typer.Option(help="Heading of the page.", show_default="the report's name")] = "",
    force: ForceFile = False,
) -> None:
    """Write the review page of a join: one HTML file with verdict, budget, roofline, evidence; needs no network."""
    from dsocr_nvtx.errors import UsageError
    from dsocr_nvtx.report.opened import open_joined
    from dsocr_nvtx.report.page import review_page, roofline_picture
    from dsocr_nvtx.schema.files import check_file, write_text
    from dsocr_nvtx.schema.joins import is_fleet

    if out.suffix not in (".html", ".svg"):
        raise UsageError(f"{out}: end the name in .html for the page, in .svg for the roofline alone")
    check_file(out, force=force)
    if is_fleet(directory) and out.suffix == ".html":
        from dsocr_nvtx.cli.fleet import write_fleet_review

        write_fleet_review(directory, out, force=force)
    else:
        make = review_page if out.suffix == ".html" else roofline_picture
        write_text(make(open_joined(directory), title), out, force=force)
    with written(f"the page is written: {out}"):
        tell(f"review: {out}")


def show_command(
    directory: Joined,
    losses: Annotated[int, typer.Option(min=0, help="Rows that lose most.")] = 10,
    kernels: Annotated[int, typer.Option(min=0, help="Kernels that take longest.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with every kernel.")] = False,
) -> None:
    """Print a join's verdict, time budget, largest losses and longest kernels."""
    from dsocr_nvtx.report.columns import wide_console
    from dsocr_nvtx.report.opened import open_joined
    from dsocr_nvtx.report.terminal import as_plain, show
    from dsocr_nvtx.roofline.ladder import short_ladder
    from dsocr_nvtx.schema.joins import is_fleet

    if is_fleet(directory):
        from dsocr_nvtx.cli.fleet import show_joined_fleet

        show_joined_fleet(directory, losses=losses, as_json=as_json)
        return
    opened = open_joined(directory)
    summary, found = opened.kernels_summary, opened.roofline
    rungs = short_ladder(opened.accounting.operations, lambda: opened.kernels, found.stages)
    review = opened.served_review
    if as_json:
        print(
            json.dumps(as_plain(found, opened.accounting, summary, losses=losses, rungs=rungs, review=review), indent=2)
        )
    else:
        console = wide_console()
        show(
            console, found, opened.accounting, summary, losses=losses, most_kernels=kernels, rungs=rungs, review=review
        )
