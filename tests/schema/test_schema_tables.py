"""Every column says what it holds; the columns that others rely on are there; tables carry their version."""

import pyarrow as pa
import pytest

from dsocr_nvtx.schema import tables
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.tables import (
    COST_COLUMNS,
    KERNELS,
    MEASURED,
    OPERATIONS,
    RANGES,
    ROOFLINE,
    SCHEMA_VERSION,
    STAGES,
    column,
    conform,
)

SCHEMAS = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}
SUFFIX_UNITS = {"_ns": "ns", "_bytes": "B", "_flops": "FLOP"}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_column_has_a_unit_and_a_description(name: str) -> None:
    assert len(SCHEMAS[name].names) == len(set(SCHEMAS[name].names))
    for item in SCHEMAS[name]:
        assert item.metadata.keys() == {b"unit", b"description"}, item.name
        assert item.metadata[b"description"].strip(), item.name
        for suffix, unit in SUFFIX_UNITS.items():
            if item.name.endswith(suffix):
                assert item.metadata[b"unit"].decode() == unit, item.name
                assert item.type == pa.int64(), f"{item.name} is counted in whole {unit}"


@pytest.mark.parametrize("item", [item for schema in (ROOFLINE, STAGES) for item in schema], ids=lambda item: item.name)
def test_a_ratio_names_its_denominator(item: pa.Field) -> None:
    if item.type == pa.float64():
        assert item.nullable, "a ratio over nothing is unknown, not zero"
        assert " / " in item.metadata[b"description"].decode()


def test_columns_that_others_rely_on_are_there() -> None:
    assert {c.name for c in COST_COLUMNS} == set(COST_FIELDS)
    times = {"launches", "kernel_ns", "busy_ns", "busy_owned_ns", "idle_owned_ns", "wall_ns", "host_ns"}
    rates = {"achieved_tflops", "achieved_gbps", "intensity", "roofline_ns", "efficiency", "bound", "lost_ns"}
    rows = {"rank", "pid", "device", "stage", "module", "kind", "layer", "calls", *COST_FIELDS, *times, *rates}
    assert rows <= set(ROOFLINE.names)
    staged = (rows | {"mfu", "mbu", "tokens"}) - {"module", "kind", "layer"}
    assert staged <= set(STAGES.names)
    assert {"event_id", "stage", "step", "path", "bucket", "class", "rule", "busy_owned_ns"} <= set(KERNELS.names)
    assert set(OPERATIONS.names) <= set(KERNELS.names), "no operation loses a column on the way"
    shared = {"event_id", "parent_id", "path", "kind", "stage", "step", "layer", *COST_FIELDS}
    assert shared <= set(RANGES.names) & set(MEASURED.names)


def test_every_idle_cause_has_its_column() -> None:
    causes = {"idle_launch_ns", "idle_sync_ns", "idle_memory_ns", "idle_host_ns", "idle_queued_ns"}
    for schema in (MEASURED, ROOFLINE, STAGES):
        assert causes <= set(schema.names)


SMALL = pa.schema(
    [
        column("count", pa.int64(), "", "a number"),
        column("word", tables.WORD, "", "a word", null=True),
    ]
)


def test_conform_returns_exactly_the_schema_and_the_provenance() -> None:
    table = conform({"word": ["a", None, "a"], "count": [1, 2, 3], "more": [0]}, SMALL, {"tool": "by hand"})
    assert table.schema.names == ["count", "word"]
    assert table.schema.types == SMALL.types
    assert table["word"].to_pylist() == ["a", None, "a"]
    assert table.schema.metadata == {b"schema_version": str(SCHEMA_VERSION).encode(), b"tool": b"by hand"}
    assert table.schema.field("count").metadata == SMALL.field("count").metadata


def test_conform_misses_a_missing_column() -> None:
    with pytest.raises(KeyError, match="word"):
        conform({"count": [1]}, SMALL)


def test_conform_casts_only_what_fits() -> None:
    assert conform({"count": pa.array([1, 2], pa.int32()), "word": ["a", "b"]}, SMALL)["count"].type == pa.int64()
    with pytest.raises(pa.ArrowInvalid):
        conform({"count": pa.array([1.5]), "word": ["a"]}, SMALL)


def test_an_empty_table_keeps_its_types() -> None:
    assert conform({"count": [], "word": []}, SMALL).schema.types == SMALL.types
