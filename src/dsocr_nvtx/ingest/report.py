"""Opening whatever a user calls a report: an nsys export (SQLite, plain or packed, or a folder), or a ``.nsys-rep``."""

import lzma
import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import evolve

from dsocr_nvtx.errors import Refused, Unavailable, UsageError, printable_line
from dsocr_nvtx.ingest import cupti, nsys
from dsocr_nvtx.ingest.digest import digesting
from dsocr_nvtx.ingest.limits import LIMIT_REMEDY, most_bytes, unpacked_bytes
from dsocr_nvtx.ingest.trace import Projectable, Trace

NSYS_SECONDS = "DSOCR_NVTX_NSYS_SECONDS"
"""Environment variable: the most seconds that nsys may take to export a report."""
_SECONDS = 1800.0


def read_report(path: Path, later: ExitStack | None = None) -> Trace:
    """Read a report whole. The source says its file name and the hash of its bytes. ``later``: as `nsys.read`."""
    run = cupti.run_directory(path)
    if run is not None:
        trace = cupti.read(run)
        return evolve(trace, source={**trace.source, "report": printable_line(run.name)})
    with digesting(path) as found, _as_sqlite(path) as sqlite:
        trace = nsys.read(sqlite, later=later if sqlite is path else None)
    return evolve(trace, source={**trace.source, "report": printable_line(path.name), "sha256": found[0]})


def read_projectable(path: Path) -> Projectable:
    """Read what `project` needs of a report."""
    with _as_sqlite(path) as sqlite:
        found = nsys.read_projectable(sqlite)
    return evolve(found, source={**found.source, "report": printable_line(path.name)})


@contextmanager
def _as_sqlite(path: Path) -> Iterator[Path]:
    """Yield a SQLite export of the report: the file itself, or a temporary one that goes when the block ends."""
    if path.suffix in (".qdrep", ".qdstrm") and path.is_file():
        found = f"a report of Nsight Systems before 2021.4 ({path.suffix}), which only its own export reads"
        raise Refused(path, found, f"run: nsys export -t sqlite {path.name}, and give the .sqlite")
    if path.suffix not in (".nsys-rep", ".xz"):
        yield path
        return
    if not path.is_file():
        found = "not a regular file" if path.exists() else "no such file"
        raise Refused(path, found, "give the path of a report")
    with tempfile.TemporaryDirectory(prefix="dsocr-") as folder:
        target = Path(folder) / f"{path.name.removesuffix(path.suffix)}.sqlite"
        if path.suffix == ".xz":
            _unpack(path, target)
        else:
            _export(path, target)
        try:
            yield target
        except Refused as refused:
            raise Refused(path, refused.found, refused.remedy) from refused


def _unpack(path: Path, target: Path) -> None:
    """Unpack a report, as far as its limit goes: some hundred kilobytes can hold terabytes of zeros."""
    most = most_bytes(unpacked_bytes(path.stat().st_size))
    try:
        with lzma.open(path) as packed, target.open("wb") as plain:
            while piece := packed.read(1 << 20):
                most -= len(piece)
                if most < 0:
                    raise Refused(path, f"unpacks to more than {plain.tell():,} bytes", LIMIT_REMEDY)
                plain.write(piece)
    except (lzma.LZMAError, EOFError, MemoryError) as cause:
        raise Refused(path, "not an xz file, or cut short", "pack it again") from cause


def _export(path: Path, target: Path) -> None:
    """Let nsys export a report with its payloads; an nsys too old for that option exports without them."""
    nsys_path = shutil.which("nsys")
    if nsys_path is None:
        remedy = f"where nsys is, run: nsys export -t sqlite --include-blobs true {path.name}, and join the .sqlite"
        raise Unavailable(f"{path}: reading a .nsys-rep needs Nsight Systems' nsys on the PATH; {remedy}")
    command = [nsys_path, "export", "-t", "sqlite", "--force-overwrite", "true", "-o", str(target)]
    for options in (["--include-blobs", "true"], []):
        # Absolute, so that no name begins with the dash of an option.
        done = _finished([*command, *options, os.path.abspath(path)], path)
        if done.returncode == 0 and target.is_file():
            return
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    raise Refused(path, f"nsys export failed: {lines[-1] if lines else 'it said nothing'}", "is it a whole .nsys-rep?")


def _finished(command: list[str], path: Path) -> "subprocess.CompletedProcess[str]":
    """Run nsys to its end, or to the limit: then it and what it started are ended."""
    limit = _time_limit()
    with subprocess.Popen(  # noqa: S603 - found on the PATH, each word its own argument
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    ) as started:  # fmt: skip
        try:
            out, err = started.communicate(timeout=limit)
        except subprocess.TimeoutExpired as cause:
            remedy = f"set {NSYS_SECONDS} to more seconds, or export it and join the .sqlite"
            raise Refused(path, f"nsys export took more than {limit:g} s", remedy) from cause
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(started.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, started.returncode, out, err)


def _time_limit() -> float:
    """Return how many seconds nsys may take to export a report."""
    text = os.environ.get(NSYS_SECONDS, "")
    try:
        limit = float(text or _SECONDS)
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:
        raise UsageError(f"{NSYS_SECONDS}={text!r}: give a number of seconds")
    return limit
