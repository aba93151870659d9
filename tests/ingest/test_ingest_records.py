"""Records that cannot be: each is set apart by reason and counted, and the rest of the report is used as ever."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.ingest.source import NULL, product
from dsocr_nvtx.join.engine import join
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload

STEPS = 40
KERNEL, RUNTIME, RANGES = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"


def forty_steps() -> NsysFile:
    """Steps of 1,000 ns from 1 s on, each a range of 900 ns with a kernel of 380 ns."""
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    for step in range(STEPS):
        at = 1_000_000_000 + 1000 * step
        file.push_pop("decoder.0.mlp", at, at + 900, values=payload(event_id=step, stage=2, step=step, tensor_flops=9))
        file.launch("gemm", at + 10, at + 20, at + 400)
    return file


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"start": 0, "end": 0}, "no times"),  # what CUPTI writes where it took none
        ({"start": -(2**63)}, "no times"),
        ({"end": 2**63 - 1}, "no times"),
        ({"end": 1_000_019_999}, "ends before it begins"),
        ({"end": 2**60}, "days away from the rest"),
        ({"start": -(2**60)}, "days away from the rest"),
        ({"end": 1_000_039_990}, "overlaps later kernels of its own stream"),
        ({"deviceId": 1 << 32}, "impossible deviceId"),
        ({"deviceId": -1}, "impossible deviceId"),
        ({"streamId": 1 << 40}, "impossible streamId"),
        ({"correlationId": 1 << 40}, "impossible correlationId"),
        ({"gridX": 1 << 40, "gridY": 1 << 40}, "impossible gridX x gridY x gridZ"),
        ({"gridX": -3, "gridY": -3}, "impossible gridX x gridY x gridZ"),
        ({"blockX": 1 << 40}, "impossible blockX x blockY x blockZ"),
    ],
)
def test_one_kernel_that_cannot_be_is_set_apart_and_turns_nothing(
    tmp_path: Path, values: dict[str, int], why: str
) -> None:
    file = forty_steps()
    file.rows[KERNEL][20] |= values
    joined = join(read(file.write(tmp_path / "r.sqlite")), "r.sqlite")
    found = joined.accounting
    assert [(one.what, one.why, one.records) for one in found.set_apart] == [("GPU operation", why, 1)]
    assert (found.operations, found.total_ns) == (STEPS - 1, (STEPS - 1) * 380)
    (device,) = found.devices
    assert (device.device, device.wall_ns, device.busy_ns) == (0, 39_900, (STEPS - 1) * 380)
    assert found.balances()


@pytest.mark.parametrize("column", ["deviceId", "streamId", "globalPid", "start", "demangledName"])
def test_a_missing_value_of_a_kernel_is_no_other_value(tmp_path: Path, column: str) -> None:
    path = forty_steps().write(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as connection:  # as a third party rewrites tables: without the constraints
        connection.execute(f"CREATE TABLE k AS SELECT * FROM {KERNEL}")
        connection.execute(f"DROP TABLE {KERNEL}")
        connection.execute(f"ALTER TABLE k RENAME TO {KERNEL}")
        connection.execute(f"UPDATE {KERNEL} SET {column} = NULL WHERE rowid = 5")
    connection.close()
    trace = read(path)
    assert [(one.what, one.records) for one in trace.set_apart] == [("GPU operation", 1)]
    assert set(trace.devices) == {(1, 0)}
    assert len(trace.operations) == STEPS - 1


@pytest.mark.parametrize(
    ("table", "row", "values", "what"),
    [
        (RUNTIME, 20, {"end": 2**63 - 1}, "CUDA call"),
        (RUNTIME, 20, {"end": 5}, "CUDA call"),
        (RUNTIME, 20, {"correlationId": 1 << 33}, "CUDA call"),
        (RANGES, -1, {"end": -5}, "NVTX range"),
        (RANGES, -1, {"end": 2**59}, "NVTX range"),
        (RANGES, -1, {"start": 2**62}, "NVTX range"),
    ],
)
def test_calls_and_ranges_that_cannot_be_are_set_apart(
    tmp_path: Path, table: str, row: int, values: dict[str, int], what: str
) -> None:
    file = forty_steps()
    file.rows[table][row] |= values
    joined = join(read(file.write(tmp_path / "r.sqlite")), "r.sqlite")
    assert [(one.what, one.records) for one in joined.accounting.set_apart] == [(what, 1)]
    buckets = {name: count.operations for name, count in joined.accounting.buckets.items() if count.operations}
    assert buckets == {"attributed": STEPS - 1, "no_runtime_record" if what == "CUDA call" else "outside": 1}


@pytest.mark.parametrize(
    "values",
    [{"dtype": 99}, {"kind": 99}, {"stage": 9}, {"level": -1}, {"layer": 2**40 + 3}, {"layer": -2}, {"rows": -1},
     {"weight_bytes": -(2**40)}, {"tensor_flops": 2**62}],
)  # fmt: skip
def test_a_payload_that_names_nothing_is_no_payload(tmp_path: Path, values: dict[str, int]) -> None:
    file = forty_steps()
    at = 1_000_000_000 + 1000 * STEPS
    wrong = payload(**{"event_id": 99, "stage": 2, "step": STEPS, **values})
    file.push_pop("decoder.0.mlp", at, at + 900, values=wrong, stage="decode")
    joined = join(read(file.write(tmp_path / "r.sqlite")), "r.sqlite")
    ((name, value),) = values.items()
    assert [str(one) for one in joined.accounting.set_apart] == [f"1 payload: impossible {name}"], value
    assert joined.accounting.cost_sources == {"binary": STEPS, "json": 0, "announcement": 0, "none": 1}


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (6, 99, "impossible dtype"),
        (4, 99, "impossible kind"),
        (3, 2**40 + 3, "impossible layer"),
        (10, 2**62, "impossible tensor_flops"),
        (9, 2**62, "impossible keys"),
        (9, 2**40, "impossible keys"),
    ],
)
def test_an_announcement_that_names_nothing_is_none(tmp_path: Path, place: int, value: int, says: str) -> None:
    file = forty_steps()
    at = 1_000_000_000 + 1000 * STEPS
    values = [99, 2, STEPS, 0, 0, 0, 0, 4, 4, 4, *[7] * 9]
    values[place] = value
    file.mark("dsocr/1 decoder.9 " + " ".join(map(str, values)), at)
    file.push_pop("decoder.9", at + 1, at + 900, stage="decode")
    joined = join(read(file.write(tmp_path / "r.sqlite")), "r.sqlite")
    assert [str(one) for one in joined.accounting.set_apart] == [f"1 announcement: {says}"]
    assert joined.accounting.cost_sources["none"] == 1


def test_an_increment_with_which_sums_would_leave_64_bits_is_none(tmp_path: Path) -> None:
    file = forty_steps()
    at = 1_000_000_000 + 1000 * STEPS
    values = [99, 2, STEPS, 0, 0, 0, 0, 1, 1, 4, *[7] * 9]
    file.mark("dsocr/1k decoder.9 " + " ".join(map(str, [*values, *[0] * 10, 2**62, *[0] * 8])), at)
    file.push_pop("decoder.9", at + 1, at + 900, stage="decode")
    joined = join(read(file.write(tmp_path / "r.sqlite")), "r.sqlite")
    assert [one.why for one in joined.accounting.set_apart] == ["impossible increment of tensor_flops"]


def test_costs_that_do_not_fit_64_bits_together_are_refused(tmp_path: Path) -> None:
    file = forty_steps()
    for row in range(4):
        at = 1_000_000_000 + 1000 * (STEPS + row)
        values = payload(event_id=100 + row, stage=2, step=STEPS + row, tensor_flops=2**60)
        file.push_pop("decoder.0.mlp", at, at + 900, values=values)
    trace = read(file.write(tmp_path / "r.sqlite"))
    with pytest.raises(Refused, match="tensor_flops of all ranges"):
        join(trace, "r.sqlite")


def test_a_payload_of_another_stage_than_its_category_is_refused(tmp_path: Path) -> None:
    file = forty_steps()
    file.push_pop("decoder.0.mlp", 2_000_000_000, 2_000_000_900, values=payload(event_id=99, stage=1), stage="decode")
    with pytest.raises(Refused, match=r"two stages for one range: decoder\.0\.mlp is prefill and decode"):
        read(file.write(tmp_path / "r.sqlite"))


def test_kernels_of_other_streams_contexts_and_of_graphs_may_run_inside_a_long_one(tmp_path: Path) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("decoder.0.mlp", 0, 9000, values=payload(event_id=1, stage=2, tensor_flops=9))
    file.launch("long", 10, 100, 8000, stream=7)
    for at in range(6):
        file.launch("short", 20 + at, 200 + 100 * at, 250 + 100 * at, stream=8)
        file.launch("other context", 20 + at, 210 + 100 * at, 240 + 100 * at, stream=7)
        file.rows[KERNEL][-1]["contextId"] = 2
        file.kernel("node", 220 + 100 * at, 230 + 100 * at, correlation=None, node=at)
    assert not read(file.write(tmp_path / "r.sqlite")).set_apart


def test_operations_that_last_longer_together_than_can_be_counted_are_refused(tmp_path: Path) -> None:
    """Twelve days each on 2,000 streams of their own are 2^61 ns, and sums of them do not fit 64 bits for long."""
    file = forty_steps()
    for stream in range(2000):
        file.kernel("long", 1_000_000_000, 1 << 50, correlation=stream + 1, stream=stream)
    with pytest.raises(Refused, match="more than can be counted"):
        read(file.write(tmp_path / "r.sqlite"))


def test_processes_of_two_machines_with_one_number_are_two(tmp_path: Path) -> None:
    """A report of several virtual machines packs their numbers above the process id."""
    file = forty_steps()
    other = (2 << 48) | (1 << 24)
    for name, table in (("globalPid", KERNEL), ("globalTid", RUNTIME)):
        for row in file.rows[table][STEPS // 2 :]:
            row[name] = other if table == KERNEL else other | 1
    joined = join(read(file.write(tmp_path / "r.sqlite")), "r.sqlite")
    buckets = {name: count.operations for name, count in joined.accounting.buckets.items() if count.operations}
    assert buckets == {"attributed": STEPS // 2, "outside": STEPS // 2}
    assert joined.kernels["pid"].unique().to_pylist() == [1, (3 << 24) + 1]


def test_a_product_that_does_not_fit_is_not_known() -> None:
    big, small = np.array([2**31 - 1, 2**40, -2, 3]), np.array([65535, 2**40, -2, NULL])
    assert product([big, small, np.broadcast_to(np.int64(65535), 4)]).tolist() == [
        (2**31 - 1) * 65535 * 65535, NULL, NULL, NULL,
    ]  # fmt: skip
