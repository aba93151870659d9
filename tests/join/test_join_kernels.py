"""KERNELS a piece at a time: the same rows as at once, the same roofline, in every format."""

from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join import kernels
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.roofline.points import roofline
from dsocr_nvtx.schema.files import read_table, write_table
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.tables import KERNELS, MEASURED
from tests.builders.tables import filled
from tests.join.test_engine_replays import graph_file
from tests.join.test_join_engine import shuffled, traces


def check_pieces(joined: Joined, ranges: pa.Table, at_once: int) -> None:
    """Hold pieces of so many rows against the table, and the roofline of KERNELS yet to be made against that of it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernels, "_TOGETHER", at_once)
        pieces = list(joined.operations.batches({"report": "r"}))
    assert all(0 < len(piece) <= at_once for piece in pieces)
    found = pa.Table.from_batches(pieces, joined.operations.batches({"report": "r"}).schema)
    assert found.to_pylist() == joined.kernels.to_pylist()
    assert found.schema.equals(KERNELS)
    assert found.schema.metadata[b"report"] == b"r"
    one, other = (roofline(made, ranges, datasheet("NVIDIA H200")) for made in (joined.kernels, joined.operations))
    assert one.rows.equals(other.rows)
    assert one.stages.equals(other.stages)


@given(traces(), st.randoms(use_true_random=False), st.integers(1, 7))
def test_pieces_are_the_table(found: Trace, random: Random, at_once: int) -> None:
    joined = join(shuffled(found, random), "drawn")
    # Drawn costs do not add up: what is inside a range may cost more than it.
    apart = [{**row, "parent_id": None} for row in joined.ranges.to_pylist()]
    check_pieces(joined, filled(MEASURED, apart), at_once)


def test_pieces_of_replayed_graphs_are_the_table(tmp_path: Path) -> None:
    joined = join(read(graph_file().write(tmp_path / "g.sqlite")), "g")
    assert {row["origin"] for row in joined.ranges.to_pylist()} >= {"captured", "replayed"}
    check_pieces(joined, joined.ranges, 2)


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "csv", "json"])
def test_pieces_are_written_as_the_table_is(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_TOGETHER", 2)
    joined = join(read(graph_file().write(tmp_path / "g.sqlite")), "g")
    one, other = tmp_path / f"one.{suffix}", tmp_path / f"other.{suffix}"
    write_table(joined.kernels, one)
    write_table(joined.operations.batches({}), other)
    if suffix == "arrow":
        assert read_table(other).to_pylist() == read_table(one).to_pylist()
    elif suffix == "parquet":
        assert pq.read_table(other).to_pylist() == pq.read_table(one).to_pylist()
    else:
        assert other.read_text() == one.read_text()
