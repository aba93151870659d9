"""`project`: a report in, one table of projected NVTX ranges out."""

import sys
from pathlib import Path

from dsocr_nvtx import __version__
from dsocr_nvtx.cli.outputs import tell, written
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.cupti import run_directory
from dsocr_nvtx.ingest.process import prepare_process
from dsocr_nvtx.ingest.report import read_projectable
from dsocr_nvtx.ingest.trace import Projectable
from dsocr_nvtx.join.projection import project
from dsocr_nvtx.schema.directories import check_report
from dsocr_nvtx.schema.files import check_file, check_format, write_table


def project_report(report: Path, out: Path, *, as_nsys: bool, force: bool = False) -> None:
    """Write the projection of a report's NVTX ranges, in the format of the file's suffix."""
    check_format(out)
    check_file(out, force=force)
    if run_directory(report) is not None:
        remedy = "dsocr-nvtx join takes it; project takes a report of Nsight Systems"
        raise Refused(report, "a run that CUPTI recorded, without a report", remedy)
    check_report(report)
    prepare_process()
    found = read_projectable(report)
    _check_work(report, found)
    table = project(found.ranges, found.operations, found.launches, as_nsys=as_nsys)
    about = {**(table.schema.metadata or {}), **found.source, "dsocr_nvtx": __version__}
    write_table(table.replace_schema_metadata(about), out, force=force)
    said = f"projection: {out}, {len(table):,} ranges with GPU work"
    with written(said):
        tell(said)
    for one in found.set_apart:
        print(f"dsocr-nvtx: note: set apart, as it cannot be: {one}", file=sys.stderr)


def _check_work(report: Path, found: Projectable) -> None:
    """Refuse a report that lacks what is projected: nothing in the answer would then say nothing of the ranges."""
    for table, what in (
        (found.ranges, "NVTX range"), (found.operations, "work of a GPU"), (found.launches, "CUDA call"),
    ):  # fmt: skip
        if not len(table):
            remedy = "profile with nsys profile -t cuda,nvtx"
            raise Refused(report, f"the report has no {what}, so there is nothing to project", remedy)
