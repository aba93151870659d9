"""What is measured: one task per process, which prints its seconds, its peak memory in KB, and what it found."""

import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COLUMNS = {
    "CUPTI_ACTIVITY_KIND_KERNEL": "globalPid, deviceId, streamId, start, end, correlationId, graphNodeId,"
    " demangledName, gridX, gridY, gridZ, blockX, blockY, blockZ",
    "CUPTI_ACTIVITY_KIND_RUNTIME": "globalTid, start, end, correlationId, nameId, eventClass",
    "NVTX_EVENTS": "eventType, globalTid, endGlobalTid, start, end, domainId, textId, category, text, jsonText,"
    " binaryData",
}
"""The columns of the large tables that the join reads."""


def bare_read(report: Path) -> str:
    """Read the same columns through sqlite3, and keep nothing."""
    connection = sqlite3.connect(report)
    count = 0
    for table, columns in COLUMNS.items():
        found = connection.execute(f"SELECT {columns} FROM {table}")
        while rows := found.fetchmany(1 << 16):
            count += len(rows)
    return f"{count:,} rows"


def join_all(report: Path) -> str:
    """Read, join and write every table."""
    from dsocr_nvtx.ingest.process import prepare_process
    from dsocr_nvtx.roofline.joined import joined_report, write_tables

    prepare_process()

    def work() -> str:
        whole = joined_report(report)
        with tempfile.TemporaryDirectory() as folder:
            write_tables(Path(folder) / "out", whole, force=False)
        return f"{whole.joined.accounting.buckets['attributed'].operations:,} operations to ranges"

    return _timed(work)


def join_again(report: Path) -> str:
    """Do the same twice, and count the second time: memory that is touched for the first time is left out."""
    join_all(report)
    return join_all(report)


def read_only(report: Path) -> str:
    """Read the report into tables."""
    import numpy.ma  # noqa: F401 - pyarrow imports it when it meets an array for the first time: left out as well

    from dsocr_nvtx.ingest.nsys import read
    from dsocr_nvtx.ingest.process import prepare_process

    prepare_process()
    return _timed(lambda: f"{len(read(report).operations):,} operations")


def read_parquet(report: Path) -> str:
    """Read the same report from a directory of Parquet files, as nsys writes them."""
    import pyarrow.parquet  # noqa: F401 - an import, which is left out

    with tempfile.TemporaryDirectory() as folder:
        # A process of its own: what it leaves in memory would serve this one.
        words = [sys.executable, "-m", "tests.bench.tasks", "to parquet", str(report), folder]
        subprocess.run(words, check=True)
        return read_only(Path(folder))


def project_all(report: Path) -> str:
    """Project every range and write the table."""
    from dsocr_nvtx.cli.project import project_report

    def work() -> str:
        with tempfile.TemporaryDirectory() as folder:
            project_report(report, Path(folder) / "p.csv", as_nsys=True)
        return "projection of every range, as CSV"

    return _timed(work)


def nsys_stats(report: Path) -> str:
    """Let nsys project the same ranges."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(report, folder)

        def work() -> str:
            words = ["nsys", "stats", "-r", "nvtx_gpu_proj_trace", "--format", "csv", "--force-export=false", str(copy)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            return f"{len(done.stdout.splitlines()):,} lines"

        return _timed(work)


def nsys_ai(report: Path) -> str:
    """Let nsys-ai attribute kernels to ranges, as it does for its own views."""
    from nsys_ai.nvtx_attribution import attribute_kernels_to_nvtx

    connection = sqlite3.connect(report)
    return _timed(lambda: f"{len(attribute_kernels_to_nvtx(connection)):,} rows of attribution only")


_spent: list[float] = []


def _timed(work: Callable[[], str]) -> str:
    """Run the part that counts, after its imports."""
    begin = time.perf_counter()
    found = work()
    _spent.append(time.perf_counter() - begin)
    return found


TASKS: dict[str, Callable[[Path], str]] = {
    "bare sqlite3 read": bare_read,
    "dsocr-nvtx: read, join, write all tables": join_all,
    "dsocr-nvtx: the same again, in that memory": join_again,
    "dsocr-nvtx: read only": read_only,
    "dsocr-nvtx: read only, parquetdir": read_parquet,
    "dsocr-nvtx project": project_all,
    "nsys stats": nsys_stats,
    "nsys-ai": nsys_ai,
}


def main() -> None:
    """Run one task on one report."""
    if sys.argv[1] == "to parquet":
        from tests.builders.folders import as_folder

        as_folder(Path(sys.argv[2]), Path(sys.argv[3]), ".parquet")
        return
    begin = time.perf_counter()
    found = TASKS[sys.argv[1]](Path(sys.argv[2]))
    seconds = _spent[-1] if _spent else time.perf_counter() - begin
    who = resource.RUSAGE_CHILDREN if sys.argv[1] == "nsys stats" else resource.RUSAGE_SELF
    print(f"{seconds:.3f} {resource.getrusage(who).ru_maxrss} {found}")


if __name__ == "__main__":
    main()
