"""The GPU operations of hooked calls, and what of their time is tax or in small kernels."""

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, Places, blocks, known, numbers, rows_where
from dsocr_nvtx.join.events import rows_of_events
from dsocr_nvtx.join.kernels import Kernels
from dsocr_nvtx.join.ownership import union_by_group
from dsocr_nvtx.roofline.tax import taxed, taxed_names

SHORT_NS = 5_000
"""A kernel shorter than this spends most of its time on beginning and ending: one that does nothing takes 1 to 2 us."""


@frozen(eq=False)
class CallOperations:
    """The operations of calls: the row of each one's call, when it ran, what it owns, if it is tax, and if small."""

    row: Places
    start: Ints
    end: Ints
    owned: Ints
    tax: Mask
    small: Mask

    @classmethod
    def of(cls, kernels: pa.Table | Kernels, ranges: pa.Table, sm_count: int) -> "CallOperations":
        """Return those of KERNELS that belong to a row of ``ranges`` (MEASURED)."""
        if isinstance(kernels, Kernels):
            table, row, tax = kernels.known, kernels.owner, taxed_names(kernels.name, kernels.classes)
        else:
            found = rows_of_events(ranges, numbers(kernels, "pid"), numbers(kernels, "event_id"))
            table, row, tax = kernels, np.where(known(kernels, "event_id"), found, -1), taxed(kernels)
        mine = rows_where(row >= 0)
        start, end, owned = (numbers(table, name)[mine] for name in ("start_ns", "end_ns", "busy_owned_ns"))
        return cls(row[mine], start, end, owned, tax[mine], is_small(table, sm_count)[mine])

    def times(self, group: Ints, count: int) -> dict[str, Ints]:
        """Return the union of the operations' times per group of rows, and the parts of owned time that they tell."""
        mine = group.astype(np.int32)[self.row]  # of which there can be many, and few groups
        time = {name: np.zeros(count, np.int64) for name in ("tax_ns", "small_ns")}
        for part in blocks(len(mine)):
            np.add.at(time["tax_ns"], mine[part], self.owned[part] * self.tax[part])
            np.add.at(time["small_ns"], mine[part], self.owned[part] * (self.small[part] & ~self.tax[part]))
        return {"busy_ns": union_by_group(mine, self.start, self.end, count), **time}


def is_small(operations: pa.Table, sm_count: int) -> Mask:
    """Return which operations are short, or kernels of fewer blocks than the device has SMs, where that is known."""
    grid = numbers(operations, "blocks")
    short = numbers(operations, "end_ns") - numbers(operations, "start_ns") < SHORT_NS
    return np.asarray(short | ((grid > 0) & (grid < sm_count)), bool)


def small_rule(sm_count: int) -> str:
    """Return what makes a kernel small, in words."""
    wave = f", or of fewer blocks than the {sm_count} SMs" if sm_count else "; SMs not known"
    return f"shorter than {SHORT_NS} ns{wave}"
