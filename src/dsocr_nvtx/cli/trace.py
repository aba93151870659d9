"""`trace`: reads a join's tables, writes them as one trace for Perfetto and chrome://tracing."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from dsocr_nvtx.cli.outputs import ForceFile, Joined, tell, written

_LEVEL = 3
"""Of gzip: 5 packs a sixth smaller and takes half as long again."""


def trace_command(
    directory: Joined,
    out: Annotated[
        Path, typer.Option("-o", "--out", help=".json or .json.gz for Perfetto, .nvtxt for nsys's ImportNvtxt.")
    ],
    force: ForceFile = False,
) -> None:
    """Write a join as a trace for Perfetto: calls, GPU operations, launches, achieved rates and roof share."""
    from dsocr_nvtx.errors import UsageError

    if not out.name.endswith((".json", ".json.gz", ".nvtxt")):
        raise UsageError(f"{out}: end the name in .json or .json.gz, for Perfetto, or in .nvtxt, for Nsight Systems")
    write_trace(directory, out, force=force)
    merge = f"ImportNvtxt --cmd merge -i REPORT.nsys-rep -n {out} -o MERGED.nsys-rep --target 0:1"
    with written(f"the trace is written: {out}"):
        tell(f"trace: {out} ({merge if out.suffix == '.nvtxt' else 'open it at https://ui.perfetto.dev'})")


def write_trace(directory: Path, out: Path, *, force: bool = False) -> None:
    """Write the trace of a join's output directory, whole; a file that is there is replaced only with ``force``.

    The same tables make the same bytes. Refused: a directory without the tables, and tables of different joins.
    """
    from dsocr_nvtx.report.nvtxt import nvtxt_text
    from dsocr_nvtx.report.scene import lay_out
    from dsocr_nvtx.report.trace import trace_text
    from dsocr_nvtx.roofline.rates import rates
    from dsocr_nvtx.schema.files import check_file, replacing
    from dsocr_nvtx.schema.joins import open_directory

    check_file(out, force=force)
    joined = open_directory(directory)
    kernels, ranges, rows = (joined.table(name) for name in ("kernels", "ranges", "roofline"))
    found = rates(kernels, ranges, rows, str(directory))
    pieces: Iterator[bytes]
    if out.suffix == ".nvtxt":
        pieces = (line.encode() for line in nvtxt_text(kernels, ranges, rows, found, str(directory)))
    else:
        device = (rows.schema.metadata or {}).get(b"device", b"").decode()
        pieces = trace_text(
            kernels, ranges, rows, found, lay_out(kernels, ranges, found, device, joined.beside("api_calls"))
        )
    with replacing(out, force=force) as temporary, _opened(temporary) as file:
        for piece in pieces:
            file.write(piece)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write; what is named .gz is packed, without name and time, so that the bytes are the same."""
    with path.open("wb") as plain:
        if path.suffix != ".gz":
            yield plain
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=plain, mtime=0) as packed:
            yield packed  # type: ignore[misc]
