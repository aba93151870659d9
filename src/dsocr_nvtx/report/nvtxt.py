"""A join's roofline as NVTXT, the text that Nsight Systems' ImportNvtxt merges into a report, onto its own timeline.

    ImportNvtxt --cmd merge -i report.nsys-rep -n roofline.nvtxt -o merged.nsys-rep --target 0:1

NVTXT has ranges and no counters. Per process and GPU there is one row, a thread that no process has (from `FIRST_ROW`
on; threads cannot be named), with a range over all that names it. In it, per hooked call that owned busy time, one
range from the begin of its first own operation to the end of its last: what binds the row of ``roofline.arrow`` that
it belongs to (also its colour), how near that is to the roof, and the call's own rates. Times are nanoseconds of the
report (TimeBase Relative), so the export that was joined must not have shifted them. Quotation marks, backslashes and
what does not print cannot be written in NVTXT: they become ', / and ?.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import coded, groups, numbers
from dsocr_nvtx.roofline.rates import Rates

FIRST_ROW = 16_000_000
"""nsys keeps 24 bits of a thread id; Linux gives out none above 2**22."""

COLOURS = {
    "host": 0xFF9E9E9E,
    "queued": 0xFFBDBDBD,
    "compute": 0xFF4CAF50,
    "memory": 0xFF2196F3,
    "l2": 0xFF00BCD4,
    "unfused": 0xFF9C27B0,
    "small": 0xFFFF9800,
    "inefficient": 0xFFFF5722,
}
_OTHER = 0xFF607D8B


def nvtxt_text(kernels: pa.Table, ranges: pa.Table, rows: pa.Table, found: Rates, where: str) -> Iterator[str]:
    """Yield the lines for KERNELS, MEASURED and ROOFLINE tables; refuse those of what nsys did not record."""
    tool = (rows.schema.metadata or {}).get(b"tool", b"").decode()
    if not tool.startswith("nsys"):
        raise Refused(where, f"a join of {tool or 'another tool'}'s records", "NVTXT is for reports of nsys only")
    yield '# made by dsocr-nvtx trace\nSetFileDisplayName, "dsocr-nvtx"\n'
    yield "@RangeStartEnd, Start, End, ProcessId, ThreadId, Color, Message\nTimeBase = Relative\n"
    pid, device, start, end = (numbers(kernels, name) for name in ("pid", "device", "start_ns", "end_ns"))
    gpu, first = groups(pid, device)
    for one, row in enumerate(first):
        mine = gpu == one
        thread = FIRST_ROW + one
        name = f"roofline of GPU {device[row]}: what binds it, share of the roof, own work over own busy time"
        yield _range(int(start[mine].min()), int(end[mine].max()), int(pid[row]), thread, _OTHER, name)
    owned = np.flatnonzero((found.call >= 0) & (numbers(kernels, "busy_owned_ns") > 0))
    key, first = groups(gpu[owned], found.call[owned])
    begin, last = start[owned][first], end[owned][first]
    np.minimum.at(begin, key, start[owned])
    np.maximum.at(last, key, end[owned])
    (path, paths), (stage, stages) = (coded(ranges, name) for name in ("path", "stage"))
    bound = rows["bound"].to_pylist()
    for at, op in enumerate(owned[first].tolist()):
        call = int(found.call[op])
        binds = bound[found.row[call]] or "-"
        text = (
            f"{stages[stage[call]]} {paths[path[call]]}: {binds}, {found.share[call]:.1%} of the roof, "
            f"{found.flops[call] / 1e12:.3g} TFLOP/s, {found.bytes[call] / 1e9:.3g} GB/s"
        )
        colour = COLOURS.get(binds, _OTHER)
        yield _range(int(begin[at]), int(last[at]), int(pid[op]), FIRST_ROW + int(gpu[op]), colour, text)


def _range(start: int, end: int, pid: int, thread: int, colour: int, text: str) -> str:
    return f'RangeStartEnd, {start}, {end}, {pid}, {thread}, 0x{colour:08X}, "{plain(text)}"\n'


def plain(text: str) -> str:
    """Return a text as a string of NVTXT can hold it."""
    quoted = text.replace('"', "'").replace("\\", "/")
    return "".join(c if c.isprintable() else "?" for c in quoted)
