"""KERNELS_SUMMARY: of hand-made operations to the number, of the demo against the tables added up the slow way."""

import math
from pathlib import Path

import pytest

from dsocr_nvtx.join.engine import join
from dsocr_nvtx.roofline.kernel_summary import kernel_summary
from dsocr_nvtx.schema.files import read_table
from tests.builders.tables import Row, trace
from tests.builders.tables import payload_v1 as payload
from tests.join.test_join_costs import packed


def costs(layer: int) -> bytes:
    """Return a payload of a call in a layer."""
    return packed(payload(event_id=layer + 1, layer=layer, tensor_flops=1))


def launched(at: int, length: int, name: str, blocks: int, correlation: int) -> tuple[Row, Row]:
    """Return a kernel and its launch, 5 ns before it."""
    operation = {
        "start_ns": at, "end_ns": at + length, "name": name, "blocks": blocks, "correlation_id": correlation,
    }  # fmt: skip
    return operation, {"start_ns": at - 5, "end_ns": at - 4, "correlation_id": correlation}


def test_sums_spread_waves_and_places_are_those_of_the_operations() -> None:
    pairs = [
        launched(20, 10, "add", 132, 1), launched(40, 30, "add", 66, 2), launched(120, 20, "add", 264, 3),
        launched(150, 7, "mul", 132, 4), launched(300, 9, "add", 132, 5),
    ]  # fmt: skip
    ranges: list[Row] = [
        {"path": path, "start_ns": start, "end_ns": end, "payload": costs(at)}
        for at, (path, start, end) in enumerate([("decoder.0.mlp", 0, 100), ("decoder.1.mlp", 100, 200)])
    ]
    found = trace(ranges, [one for one, _ in pairs], [other for _, other in pairs])
    devices = {key: device.__class__(ordinal=0, name="x", sm_count=132) for key, device in found.devices.items()}
    add, outside, mul = kernel_summary(join(found, "here").operations, devices).to_pylist()
    assert (add["stage"], add["short_name"], add["launches"], add["total_ns"]) == ("decode", "add", 3, 60)
    assert (add["mean_ns"], add["shortest_ns"], add["longest_ns"]) == (20.0, 10, 30)
    assert add["spread_ns"] == pytest.approx(math.sqrt(200 / 3))
    assert add["waves"] == pytest.approx((1 + 0.5 + 2) / 3)
    assert (add["below_a_wave"], add["layers"], add["modules"]) == (1, [0, 1], ["decoder"])
    assert add["stage_share"] == pytest.approx(60 / 67)
    assert (mul["launches"], mul["layers"], mul["spread_ns"]) == (1, [1], 0.0)
    assert (outside["stage"], outside["launches"], outside["layers"], outside["kinds"]) == (None, 1, [], [])


def test_waves_of_a_device_that_tells_no_sms_are_unknown() -> None:
    operation, launch = launched(20, 10, "add", 132, 1)
    ranges: list[Row] = [{"path": "decoder.0.mlp", "end_ns": 100, "payload": costs(0)}]
    (row,) = kernel_summary(join(trace(ranges, [operation], [launch]), "here").operations, {}).to_pylist()
    assert (row["waves"], row["below_a_wave"]) == (None, None)


def test_the_demo_adds_up_to_its_operations(demo_out: Path) -> None:
    totals: dict[tuple[object, object], list[int]] = {}
    for one in read_table(demo_out / "kernels.arrow").to_pylist():
        entry = totals.setdefault((one["stage"], one["name"]), [0, 0, 0])
        for at, value in enumerate((1, one["end_ns"] - one["start_ns"], one["busy_owned_ns"])):
            entry[at] += value
    rows = read_table(demo_out / "kernels_summary.arrow").to_pylist()
    told = {(r["stage"], r["name"]): [r["launches"], r["total_ns"], r["busy_owned_ns"]] for r in rows}
    assert told == totals
    assert len(rows) == len(totals)
    for stage in ("vision", "prefill", "decode"):
        assert sum(row["stage_share"] for row in rows if row["stage"] == stage) == pytest.approx(1)
