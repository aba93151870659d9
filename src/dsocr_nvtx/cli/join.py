"""`join` and `demo`: a report in; tables, accounting and verdict out."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pyarrow as pa

from dsocr_nvtx import __version__
from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.heap import keep_freed_memory
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.sidecar import check_run
from dsocr_nvtx.report.columns import wide_console
from dsocr_nvtx.report.terminal import show
from dsocr_nvtx.roofline.ceilings import roofs_of
from dsocr_nvtx.roofline.dilation import dilated, read_dilation
from dsocr_nvtx.roofline.measured import read_launching
from dsocr_nvtx.roofline.points import Roofline, roofline
from dsocr_nvtx.roofline.throttling import throttled
from dsocr_nvtx.schema.files import (
    check_directory,
    read_table,
    replacing_directory,
    write_json,
    write_table,
    write_text,
)

MARKER = "join.json"


def join_report(
    report: Path, *, run: Path | None, out: Path | None, hardware: str | None, ceilings: Path | None, force: bool
) -> None:
    """Join a report, write every table into a directory, and print the verdict."""
    target = out or default_out(report)
    check_directory(target, MARKER, force=force)
    keep_freed_memory()
    trace = read_report(report)
    joined = join(trace, str(report))
    beside = _read_run(run, joined) if run is not None else {}

    def judge() -> Roofline:
        found = judged(trace, joined, hardware, ceilings, str(report))
        if run is not None:
            found = dilated(found, read_dilation(run))
        if "power" in beside:
            found = throttled(found, joined.ranges, beside["ranges"], beside["power"])
        return found

    kept = {name: table for name, table in beside.items() if name in _KEPT}
    found = write_tables(target, trace, joined, judge, kept, force=force)
    console = wide_console()
    show(console, found, joined.accounting)
    console.print(f"\ntables: {target}", highlight=False, markup=False, soft_wrap=True)


_KEPT = ("experts", "energy", "power")
"""What a run measured beside its ranges: kept with the join's tables, as it is."""


def _read_run(run: Path, joined: Joined) -> dict[str, pa.Table]:
    """Return the tables of a run directory, once its ranges are checked against the report."""
    ranges = read_table(run / "ranges.arrow")
    check_run(joined.ranges, ranges, str(run / "ranges.arrow"))
    return {"ranges": ranges, **{n: read_table(run / f"{n}.arrow") for n in _KEPT if (run / f"{n}.arrow").exists()}}


def demo(out: Path | None, *, force: bool) -> None:
    """Join the capture inside the package, as `join` would; ``out`` gets its tables and their review."""
    from dsocr_nvtx.report.opened import open_joined
    from dsocr_nvtx.report.page import review_page

    with resources.as_file(resources.files("dsocr_nvtx.demo") / CAPTURE) as path:
        trace = read_report(path)
    joined = join(trace, path.name)
    found = judged(trace, joined, None, None, path.name)
    if out is not None:
        write_tables(out, trace, joined, lambda: found, force=force)
        write_text(review_page(open_joined(out)), out / "review.html")
    console = wide_console()
    console.print("DeepSeek-OCR on an NVIDIA H200: one page of 2x3 tiles, recorded by this project\n", highlight=False)
    show(console, found, joined.accounting)
    console.print(
        "\nnext, on a machine with an NVIDIA GPU: nsys profile -o report python -m dsocr_nvtx.run", highlight=False
    )


def default_out(report: Path) -> Path:
    """Return where the tables of a report go: beside it, under its name."""
    named = report.resolve() if report.name in ("", "..") else report
    if not named.name:
        raise Refused(report, "the root directory", "give the path of a report")
    name = named.name.removesuffix(".xz")
    return named.with_name(name.rsplit(".", 1)[0] + ".dsocr")


def judged(trace: Trace, joined: Joined, hardware: str | None, ceilings: Path | None, where: str) -> Roofline:
    """Hold a join against the roofs of its device, or of the device or file that the user names."""
    roofs = roofs_of(trace.devices.values(), hardware, ceilings)
    about = _provenance(trace) | (read_launching(ceilings) if ceilings is not None else {})
    return roofline(joined.kernels, joined.ranges, roofs, about, where=where)


def _provenance(trace: Trace) -> dict[str, str]:
    devices = ", ".join(sorted({device.name for device in trace.devices.values() if device.name}))
    return {**trace.source, "dsocr_nvtx": __version__, "device": devices}


def write_tables(
    target: Path, trace: Trace, joined: Joined, judge: Callable[[], Roofline],
    beside: Mapping[str, pa.Table] | None = None, *, force: bool,
) -> Roofline:  # fmt: skip
    """Write every table into a directory; return what ``judge`` found, which works while the large ones are written.

    ``beside`` are the run's own tables, written as they are.
    """
    about = _provenance(trace)
    with replacing_directory(target, MARKER, force=force) as folder:
        with ThreadPoolExecutor(1) as aside:
            large = {"kernels": joined.kernels, "ranges": joined.ranges}
            written = [aside.submit(_keep, folder, name, table, about) for name, table in large.items()]
            found = judge()
            for one in written:
                one.result()
        write_table(found.rows, folder / "roofline.arrow")
        write_table(found.stages, folder / "stages.arrow")
        for name, table in (beside or {}).items():
            write_table(table, folder / f"{name}.arrow")
        write_json({"source": about, "level": found.level, **joined.accounting.as_dict()}, folder / MARKER)
    return found


def _keep(folder: Path, name: str, table: pa.Table, about: dict[str, str]) -> None:
    write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), folder / f"{name}.arrow")
