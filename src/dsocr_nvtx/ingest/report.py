"""Opening whatever a user calls a report: an nsys export (SQLite, plain or packed, or a folder), or a ``.nsys-rep``."""

import lzma
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve

from dsocr_nvtx.errors import Refused, Unavailable
from dsocr_nvtx.ingest import cupti, nsys
from dsocr_nvtx.ingest.digest import digesting
from dsocr_nvtx.ingest.limits import LIMIT_REMEDY, most_bytes
from dsocr_nvtx.ingest.trace import Projectable, Trace


def read_report(path: Path) -> Trace:
    """Read a report whole. The source says its file name and the hash of its bytes."""
    run = cupti.run_directory(path)
    if run is not None:
        trace = cupti.read(run)
        return evolve(trace, source={**trace.source, "report": run.name})
    with digesting(path) as found, _as_sqlite(path) as sqlite:
        trace = nsys.read(sqlite)
    return evolve(trace, source={**trace.source, "report": path.name, "sha256": found[0]})


def read_projectable(path: Path) -> Projectable:
    """Read what `project` needs of a report."""
    with _as_sqlite(path) as sqlite:
        found = nsys.read_projectable(sqlite)
    return evolve(found, source={**found.source, "report": path.name})


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
    most = most_bytes(_LEAST_UNPACKED + _MOST_RATIO * path.stat().st_size)
    try:
        with lzma.open(path) as packed, target.open("wb") as plain:
            while piece := packed.read(1 << 20):
                most -= len(piece)
                if most < 0:
                    raise Refused(path, f"unpacks to more than {plain.tell():,} bytes", LIMIT_REMEDY)
                plain.write(piece)
    except (lzma.LZMAError, EOFError, MemoryError) as cause:
        raise Refused(path, "not an xz file, or cut short", "pack it again") from cause


_LEAST_UNPACKED, _MOST_RATIO = 1 << 28, 100
"""What any packed report may unpack to, in bytes, and for each byte of it; exports shrink to a fifth or a twentieth."""


def _export(path: Path, target: Path) -> None:
    """Let nsys export a report with its payloads; an nsys too old for that option exports without them."""
    nsys_path = shutil.which("nsys")
    if nsys_path is None:
        remedy = f"where nsys is, run: nsys export -t sqlite --include-blobs true {path.name}, and join the .sqlite"
        raise Unavailable(f"{path}: reading a .nsys-rep needs Nsight Systems' nsys on the PATH; {remedy}")
    command = [nsys_path, "export", "-t", "sqlite", "--force-overwrite", "true", "-o", str(target)]
    for options in (["--include-blobs", "true"], []):
        done = subprocess.run([*command, *options, str(path)], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode == 0 and target.is_file():
            return
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    raise Refused(path, f"nsys export failed: {lines[-1] if lines else 'it said nothing'}", "is it a whole .nsys-rep?")
