"""`join` and `demo`: a report in; tables, accounting and verdict out."""

import sys
from importlib import resources
from pathlib import Path

from dsocr_nvtx.cli.outputs import tell, written
from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.errors import Refused, printable_line
from dsocr_nvtx.ingest.cupti import run_directory
from dsocr_nvtx.ingest.process import prepare_process
from dsocr_nvtx.report.columns import wide_console
from dsocr_nvtx.report.terminal import show
from dsocr_nvtx.roofline.joined import JoinedReport, joined_report, write_tables
from dsocr_nvtx.roofline.ladder import short_ladder
from dsocr_nvtx.roofline.points import Roofline
from dsocr_nvtx.roofline.review import served_review
from dsocr_nvtx.schema.directories import JOINED, check_report
from dsocr_nvtx.schema.files import check_directory, write_text


def join_report(
    report: Path, *, run: Path | None, out: Path | None, hardware: str | None, ceilings: Path | None, force: bool
) -> None:
    """Join a report, write every table into a directory, and print the verdict."""
    target = out or default_out(report)
    if run_directory(report) is None:
        check_report(report)  # whose default place it is itself
    if report.exists():  # else that is what there is to say
        check_directory(target, JOINED, force=force)
    prepare_process()
    whole = joined_report(report, run=run, hardware=hardware, ceilings=ceilings)
    found = write_tables(target, whole, force=force)
    if found.other_gpu:
        print(f"dsocr-nvtx: note: {printable_line(found.other_gpu)}", file=sys.stderr)
    with written(f"the tables are written: {target}"):
        _show(whole, found)
        tell(f"\ntables: {target}")


def demo(out: Path | None, *, force: bool) -> None:
    """Join the capture inside the package, as `join` would; ``out`` gets its tables and their review."""
    from dsocr_nvtx.report.opened import open_joined
    from dsocr_nvtx.report.page import review_page

    if out is not None:
        check_directory(out, JOINED, force=force)
    with resources.as_file(resources.files("dsocr_nvtx.demo") / CAPTURE) as path:
        whole = joined_report(path)
    if out is None:
        found = whole.judge()
    else:
        found = write_tables(
            out, whole, force=force, more=lambda folder: write_text(review_page(open_joined(folder)), folder / _REVIEW)
        )
    with written(f"tables and review are written: {out}" if out is not None else "nothing was to be written"):
        tell("DeepSeek-OCR on an NVIDIA H200: one page of 2x3 tiles, recorded by this project\n")
        _show(whole, found)
        tell("\nnext, on a machine with an NVIDIA GPU: nsys profile -o report python -m dsocr_nvtx.run")
        if out is not None:
            tell(f"open this in a browser: {out / _REVIEW}")


_REVIEW = "review.html"


def _show(whole: JoinedReport, found: Roofline) -> None:
    joined = whole.joined
    rungs = short_ladder(len(joined.operations), joined.operations.table, found.stages)
    show(
        wide_console(),
        found,
        joined.accounting,
        whole.kernels_summary.to_pylist(),
        rungs=rungs,
        review=served_review(joined.served, joined.accounting.served),
    )


def default_out(report: Path) -> Path:
    """Return where the tables of a report go: beside it, under its name."""
    named = report.resolve() if report.name in ("", "..") else report
    if not named.name:
        raise Refused(report, "the root directory", "give the path of a report")
    name = named.name.removesuffix(".xz")
    return named.with_name(name.rsplit(".", 1)[0] + ".dsocr")
