"""A run that CUPTI recorded: what its tables cannot hold is set apart and counted, or refused by the column's name."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.cupti import read
from dsocr_nvtx.join.engine import join
from dsocr_nvtx.schema.files import read_table, write_json, write_table
from dsocr_nvtx.schema.seal import FILES, digests

RUN = Path(__file__).parents[1] / "data" / "h200-cupti-graph"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def change(path: Path, name: str, row: int, value: object) -> None:
    """Write one other value into a table of a run."""
    table = read_table(path)
    item, values = table.schema.field(name), table[name].to_pylist()
    values[row] = value
    plain = item.type.value_type if pa.types.is_dictionary(item.type) else item.type
    other = pa.chunked_array([pa.array(values, plain)]).cast(item.type)
    write_table(table.set_column(table.schema.get_field_index(name), item, other), path)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("end_ns", 1, "ends before it begins"), ("end_ns", 1 << 60, "days away from the rest"),
        ("start_ns", -(1 << 62), "no times"), ("device", 1 << 17, "impossible deviceId"),
        ("bytes", -1, "impossible bytes"),
    ],
)  # fmt: skip
def test_an_operation_that_cannot_be_is_set_apart_and_the_rest_adds_up(
    run: Path, name: str, value: int, why: str
) -> None:
    every = len(read(run).operations)
    change(run / "timings" / "operations.arrow", name, 7, value)
    trace = read(run)
    assert [str(one) for one in trace.set_apart] == [f"1 GPU operation: {why}"]
    assert len(trace.operations) == every - 1
    assert join(trace, "run").accounting.balances()


@pytest.mark.parametrize(
    ("name", "value"),
    [("stage", "thinking"), ("kind", "x"), ("dtype", "float3"), ("tensor_flops", -1), ("layer", 9**6)],
)
def test_a_call_that_no_hook_writes_is_refused(run: Path, name: str, value: object) -> None:
    change(run / "ranges.arrow", name, 3, value)
    with pytest.raises(Refused, match=rf"ranges\.arrow: column {name} holds "):
        read(run)


@pytest.mark.parametrize("told", ["[]", "{", '{"0": 7}', '{"x": {"name": "H200"}}', '{"0": {"sm_count": "many"}}'])
def test_devices_that_are_none_are_refused(run: Path, told: str) -> None:
    path = run / "timings" / "operations.arrow"
    table = read_table(path)
    write_table(table.replace_schema_metadata({**table.schema.metadata, b"devices": told.encode()}), path)
    with pytest.raises(Refused, match=r"operations\.arrow: devices in its metadata that are none"):
        read(run)


def test_every_bit_of_a_run_that_noted_its_hashes_is_seen(run: Path) -> None:
    files = sorted(run.rglob("*.arrow"))
    write_json({FILES: digests(run, files)}, run / "run.json")
    assert len(read(run).operations)
    random = np.random.default_rng(3)
    for path in files:
        whole = path.read_bytes()
        for place in random.integers(0, 8 * len(whole), 4).tolist():
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            with pytest.raises(Refused, match=path.name):
                read(run)
        path.write_bytes(whole)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(run: Path, text: bytes) -> None:
    (run / "run.json").write_bytes(text)
    with pytest.raises(Refused, match=r"run\.json: not what a run writes of itself"):
        read(run)
