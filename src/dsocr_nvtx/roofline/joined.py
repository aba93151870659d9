"""From a report to its tables on disk: what `join` does for one report, and a fleet's join for each of many."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from attrs import field, frozen

from dsocr_nvtx import __version__
from dsocr_nvtx.ingest.cupti import run_directory
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.ranks import recorded_rank
from dsocr_nvtx.join.sidecar import check_run
from dsocr_nvtx.roofline.ceilings import check_ceilings, for_types, roofs_of
from dsocr_nvtx.roofline.dilation import dilated, read_dilation
from dsocr_nvtx.roofline.kernel_summary import kernel_summary
from dsocr_nvtx.roofline.measured import read_launching
from dsocr_nvtx.roofline.points import Roofline, roofline
from dsocr_nvtx.roofline.soundness import weighed
from dsocr_nvtx.roofline.throttling import throttled
from dsocr_nvtx.schema.directories import BESIDE, JOINED, check_report, check_run_directory, run_table
from dsocr_nvtx.schema.files import replacing_directory, write_json, write_table
from dsocr_nvtx.schema.joins import ACCOUNTING
from dsocr_nvtx.schema.ranks import ranks_text
from dsocr_nvtx.schema.seal import FILES, digests, sealed
from dsocr_nvtx.schema.summaries import API_CALLS
from dsocr_nvtx.schema.tables import conform

TABLES = ("kernels", "ranges", "roofline", "stages", "kernels_summary", "host_calls", "api_calls")


@frozen(kw_only=True, eq=False)
class JoinedReport:
    """One report, joined; ``judge`` holds it against its roofs, which needs nothing on disk.

    The ``trace`` tells of devices and origin and has no rows. ``beside`` are the run's own tables, as they are.
    """

    trace: Trace
    joined: Joined
    judge: Callable[[], Roofline]
    beside: Mapping[str, pa.Table] = field(factory=dict)

    @cached_property
    def kernels_summary(self) -> pa.Table:
        """KERNELS_SUMMARY: every kernel by stage and name."""
        return kernel_summary(self.joined.operations, self.trace.devices, provenance(self.trace, self.joined))


def joined_report(
    report: Path, *, run: Path | None = None, hardware: str | None = None, ceilings: Path | None = None
) -> JoinedReport:
    """Read and join a report; with the run's directory, also hold it against what the run recorded."""
    if run is not None:
        check_run_directory(run)
    if ceilings is not None:
        check_ceilings(ceilings)
    if run_directory(report) is None:
        check_report(report)
    with ExitStack() as later:
        read = [read_report(report, later)]
        trace = read[0].emptied()
        home = run or run_directory(report)
        # Handed over, not lent: the join can let go of what it has used.
        joined = join(read.pop(), str(report), told=recorded_rank(home) if home is not None else None)
    beside = _read_run(run, joined) if run is not None else {}

    def judge() -> Roofline:
        found = judged(trace, joined, hardware, ceilings, str(report))
        if run is not None:
            found = dilated(found, read_dilation(run))
        if "power" in beside:
            found = throttled(found, joined.ranges, beside["ranges"], beside["power"])
        return weighed(found, joined.accounting)

    kept = {name: table for name, table in beside.items() if name in BESIDE}
    return JoinedReport(trace=trace, joined=joined, judge=judge, beside=kept)


def _read_run(run: Path, joined: Joined) -> dict[str, pa.Table]:
    """Return the tables of a run directory, once its ranges are checked against the report."""
    ranges = run_table(run, "ranges")
    check_run(joined.ranges, ranges, str(run / "ranges.arrow"))
    return {"ranges": ranges, **{n: run_table(run, n) for n in BESIDE if (run / f"{n}.arrow").exists()}}


def judged(trace: Trace, joined: Joined, hardware: str | None, ceilings: Path | None, where: str) -> Roofline:
    """Hold a join against the roofs of its device, or of the device or file that the user names."""
    roofs = roofs_of(trace.devices.values(), hardware, ceilings)
    if hardware is None and ceilings is None:
        roofs = for_types(roofs, joined.ranges)
    about = provenance(trace, joined) | (read_launching(ceilings) if ceilings is not None else {})
    sms = min((device.sm_count for device in trace.devices.values() if device.sm_count), default=0)
    return roofline(joined.operations, joined.ranges, roofs, about, where=where, sm_count=sms)


def provenance(trace: Trace, joined: Joined) -> dict[str, str]:
    """Return what a report's tables say of their origin."""
    devices = ", ".join(sorted({device.name for device in trace.devices.values() if device.name}))
    ranks = {"ranks": ranks_text(joined.ranks)} if joined.ranks else {}
    return {**trace.source, "dsocr_nvtx": __version__, "device": devices, **ranks}


def write_tables(
    target: Path, whole: JoinedReport, *, force: bool, more: Callable[[Path], None] = lambda _: None
) -> Roofline:
    """Write every table into a directory; return the verdict, which is found while the largest one is written.

    ``more`` is given the directory before it takes its place, to write into it what is made of the tables.
    """
    with replacing_directory(target, JOINED, force=force) as folder:
        found = fill_tables(whole, folder, lambda name: Path(JOINED if name == ACCOUNTING else f"{name}.arrow"))
        more(folder)
        return found


def _write_kernels(whole: JoinedReport, about: Mapping[str, str], place: Callable[[str], Path]) -> None:
    operations = whole.joined.operations
    write_table(operations.batches(about), place("kernels"))
    write_table(whole.kernels_summary, place("kernels_summary"))
    write_table(_told(whole.joined.host_calls, about), place("host_calls"))
    every = whole.joined.api_calls
    write_table(conform({name: every[name] for name in every.column_names}, API_CALLS, about), place("api_calls"))


def _told(table: pa.Table, about: Mapping[str, str]) -> pa.Table:
    """Return a table that also tells this."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **about})


def fill_tables(whole: JoinedReport, folder: Path, place: Callable[[str], Path]) -> Roofline:
    """Write every table of `TABLES`, then the accounting, which has the hash of each; return the verdict.

    ``place`` says, by name, where each goes: a path in the ``folder``, or below it.
    """
    joined, about = whole.joined, provenance(whole.trace, whole.joined)
    with ThreadPoolExecutor(1) as aside:
        written = aside.submit(_write_kernels, whole, about, lambda name: folder / place(name))
        found = whole.judge()
        write_table(_told(joined.ranges, about), folder / place("ranges"))
        written.result()
    write_table(found.rows, folder / place("roofline"))
    write_table(found.stages, folder / place("stages"))
    further = {**whole.beside, **{name: _told(table, about) for name, table in joined.served.items()}}
    for name, table in further.items():
        write_table(table, folder / place(name))
    notes = [found.other_gpu] if found.other_gpu else []
    about_all = {"source": about, "level": found.level, "notes": notes}
    hashes = digests(folder, [folder / place(name) for name in (*TABLES, *further)])
    write_json(sealed({**about_all, FILES: hashes, **joined.accounting.as_dict()}), folder / place(ACCOUNTING))
    return found
