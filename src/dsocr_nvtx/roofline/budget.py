"""The time budget: every nanosecond of the devices' wall time in one part, from what the roofs need to what is lost.

Per row of the roofline table: ``roofline``, the least time its work needs, as far as it was busy that long;
``tax``, its tax kernels (`dsocr_nvtx.roofline.tax`), as far as they are more than that; ``inefficiency``, what is left
of its busy time; idle time by cause. Outside of rows: ``unattributed``, operations that no hooked call owns;
``idle_none``, idle time outside every range. The parts add up to the wall time, without remainder.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.join.columns import integer
from dsocr_nvtx.roofline.bounds import busy_parts

IDLE_CAUSES = ("host", "launch", "sync", "memory", "queued")
PARTS = ("roofline", "inefficiency", "tax", *(f"idle_{cause}" for cause in IDLE_CAUSES))
"""Parts of a row's wall time."""
OUTSIDE = ("unattributed", "idle_none")
"""Parts of a device's wall time that no row has."""


def row_budget(row: Mapping[str, object]) -> dict[str, int]:
    """Return the parts of one row of a ROOFLINE table, in ns; they add up to its ``wall_ns``."""
    busy, tax, floor = (integer(row, name) for name in ("busy_owned_ns", "tax_ns", "roofline_ns"))
    roof, taxed, inefficiency = (int(part) for part in busy_parts(*(np.array(ns) for ns in (busy, tax, floor))))
    idle = {f"idle_{cause}": integer(row, f"idle_{cause}_ns") for cause in IDLE_CAUSES}
    return {"roofline": roof, "inefficiency": inefficiency, "tax": taxed, **idle}


def budget(rows: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """Return the parts of several rows together."""
    total = dict.fromkeys(PARTS, 0)
    for row in rows:
        for part, ns in row_budget(row).items():
            total[part] += ns
    return total


def outside(rows: Iterable[Mapping[str, object]], accounting: Accounting) -> dict[str, int]:
    """Return what of the devices' wall time is in no row: busy without an owner, and idle outside every range."""
    owned = sum(integer(row, "busy_owned_ns") for row in rows)
    busy = sum(device.busy_ns for device in accounting.devices)
    return {"unattributed": busy - owned, "idle_none": sum(d.idle_ns.get("none", 0) for d in accounting.devices)}
