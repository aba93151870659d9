"""What each busy instant of a device achieved: the work of the hooked call that owns it, spread over that call's time.

A call's rate is its own cost (`dsocr_nvtx.roofline.own`) over the busy time it owns (``busy_owned_ns``), the same
quotients as ``achieved_tflops`` and ``achieved_gbps`` of ``roofline.arrow``, call by call. The rate holds in each
interval that an operation of the call owns, ``[end_ns - busy_owned_ns, end_ns)`` of its row in ``kernels.arrow``; no
two such intervals of a GPU overlap, and between them the rate is 0. The roof share is ``efficiency`` of the row of
``roofline.arrow`` that the call belongs to: ``roofline_ns`` over ``busy_owned_ns``.

So integrals over time are the tables' totals: of FLOP/s ``tensor_flops``, of B/s the lower-bound bytes, of the share
``roofline_ns``; but for calls, and rows, that own no busy time, whose work `Rates.unplotted` adds up.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import Ints, numbers
from dsocr_nvtx.join.events import calls_of, check_events
from dsocr_nvtx.roofline.evidence import rows_of
from dsocr_nvtx.roofline.least import MOVED, Floats
from dsocr_nvtx.roofline.own import own_costs


@frozen(kw_only=True, eq=False)
class Rates:
    """Rates per hooked call (a row of MEASURED), and whose call each operation (a row of KERNELS) is, -1: nobody's.

    ``row`` is the row of ROOFLINE that a call belongs to. ``plotted`` and ``unplotted`` are the totals of
    ``tensor_flops``, ``bytes`` and ``roofline_ns`` that the counters hold and those that they cannot show.
    """

    call: Ints
    row: Ints
    flops: Floats
    bytes: Floats
    share: Floats
    plotted: Mapping[str, int]
    unplotted: Mapping[str, int]


def rates(kernels: pa.Table, ranges: pa.Table, rows: pa.Table, where: str) -> Rates:
    """Return the rates of a join's KERNELS, MEASURED and ROOFLINE tables; refuse tables that are not of one join."""
    check_events(ranges, where)
    own = own_costs(ranges)
    moved = np.sum([own[name] for name in MOVED], axis=0)
    busy, row = numbers(ranges, "busy_owned_ns"), _rows(ranges, rows, where)
    row_busy, least = numbers(rows, "busy_owned_ns"), numbers(rows, "roofline_ns")
    shown, row_shown = busy > 0, row_busy > 0
    totals = {
        "tensor_flops": (own["tensor_flops"], shown),
        "bytes": (moved, shown),
        "roofline_ns": (least, row_shown),
    }
    return Rates(
        call=np.asarray(calls_of(kernels, ranges, where), np.int64),
        row=row,
        flops=_per_second(own["tensor_flops"], busy),
        bytes=_per_second(moved, busy),
        share=(least / np.maximum(row_busy, 1) * row_shown)[row],
        plotted={name: int(values[which].sum()) for name, (values, which) in totals.items()},
        unplotted={name: int(values[~which].sum()) for name, (values, which) in totals.items()},
    )


def _per_second(amount: Ints, ns: Ints) -> Floats:
    return np.where(ns > 0, amount * 1e9 / np.maximum(ns, 1), 0.0)


def _rows(ranges: pa.Table, rows: pa.Table, where: str) -> Ints:
    """Return the row of ROOFLINE that each call belongs to."""
    row = rows_of(rows, ranges)
    lost = np.flatnonzero(row < 0)
    if len(lost):
        found = f"roofline.arrow has no row for {ranges['path'][int(lost[0])]} of ranges.arrow"
        raise Refused(where, found, "the tables are of different joins; join the report again")
    return row
