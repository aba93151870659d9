"""What headings mean, in the words of the schemas: one meaning a column, told wherever its figures stand."""

from collections.abc import Mapping

import pyarrow as pa

from dsocr_nvtx.schema.summaries import KERNELS_SUMMARY
from dsocr_nvtx.schema.tables import ROOFLINE

ROWS: Mapping[str, str] = {
    "stage": "stage", "bound": "bound", "calls": "calls", "launches": "launches", "wall": "wall_ns",
    "busy": "busy_owned_ns", "tax": "tax_ns", "idle": "idle_owned_ns", "roofline": "roofline_ns", "lost": "lost_ns",
    "of roof": "efficiency", "TFLOP/s": "achieved_tflops", "GB/s": "achieved_gbps", "FLOP/B": "intensity",
}  # fmt: skip
"""Headings of the table of rows, and the column of ROOFLINE that each is."""
KERNELS: Mapping[str, str] = {
    "stage": "stage", "kernel": "short_name", "class": "class", "launches": "launches", "total ms": "total_ns",
    "of stage's busy": "stage_share", "mean µs": "mean_ns", "spread µs": "spread_ns", "waves": "waves",
    "launched in": "kinds",
}  # fmt: skip
"""Headings of the table of kernels, and the column of KERNELS_SUMMARY that each is."""


def row_meaning(heading: str) -> str:
    """Return what a heading of the table of rows means; empty where it is no column."""
    return _meaning(ROOFLINE, ROWS.get(heading, ""))


def kernel_meaning(heading: str) -> str:
    """Return what a heading of the table of kernels means; empty where it is no column."""
    return _meaning(KERNELS_SUMMARY, KERNELS.get(heading, ""))


def _meaning(schema: pa.Schema, column: str) -> str:
    if column not in schema.names:
        return ""
    return str(schema.field(column).metadata[b"description"].decode())
