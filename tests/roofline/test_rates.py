"""Rates of calls by hand; tables that are not of one join are refused."""

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.roofline.rates import rates
from dsocr_nvtx.schema.tables import KERNELS, MEASURED, ROOFLINE
from tests.builders.tables import Row, filled
from tests.roofline.test_roofline_points import points, timed

CALLS: list[Row] = [
    timed(0, 80, layer=3, tensor_flops=60_000, weight_bytes=40, kv_read_bytes=8),
    timed(1, 100, layer=3, tensor_flops=30_000, activation_bytes=40),
    timed(2, 0, layer=4, tensor_flops=7, weight_bytes=5),
]
OPERATIONS: list[Row] = [{"event_id": 1, "end_ns": 100}, {"event_id": None, "end_ns": 9}, {"event_id": 0, "end_ns": 80}]


def test_rates_are_a_calls_own_work_over_the_time_it_owns() -> None:
    rows = points(CALLS).rows
    found = rates(filled(KERNELS, OPERATIONS), filled(MEASURED, CALLS), rows, "here")
    assert found.call.tolist() == [1, -1, 0]
    assert found.flops.tolist() == [60_000e9 / 80, 30_000e9 / 100, 0]
    assert found.bytes.tolist() == [48e9 / 80, 40e9 / 100, 0]
    # Least times at 1000 FLOP a ns: 60 and 30 ns (its 40 bytes stay in the L2) of the row's 180. No time, no share.
    assert found.share.tolist() == [0.5, 0.5, 0]
    assert dict(found.plotted) == {"tensor_flops": 90_000, "bytes": 88, "roofline_ns": 90}
    assert dict(found.unplotted) == {"tensor_flops": 7, "bytes": 5, "roofline_ns": 5}


def test_tables_of_different_joins_are_refused() -> None:
    kernels, ranges, rows = filled(KERNELS, OPERATIONS), filled(MEASURED, CALLS), points(CALLS).rows
    with pytest.raises(Refused, match="has no row for decoder"):
        rates(kernels, ranges, rows.slice(0, 1), "here")
    with pytest.raises(Refused, match="an operation of call 8"):
        rates(filled(KERNELS, [{"event_id": 8}]), ranges, rows, "here")
    empty = rates(filled(KERNELS, []), filled(MEASURED, []), filled(ROOFLINE, []), "here")
    assert len(empty.call) == len(empty.flops) == 0
