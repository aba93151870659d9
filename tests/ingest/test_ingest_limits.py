"""Inputs that are much more than they seem are refused before they fill memory, with the way to allow them."""

import lzma
import sqlite3
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.ingest import limits, report
from dsocr_nvtx.ingest.folder import FolderOfTables
from dsocr_nvtx.ingest.limits import MOST_BYTES
from dsocr_nvtx.ingest.sqlite import SqliteFile
from tests.builders.folders import write_file


def test_a_packed_report_that_unpacks_to_too_much_is_refused_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_LEAST_UNPACKED", 1 << 20)
    path = tmp_path / "zeros.sqlite.xz"
    path.write_bytes(lzma.compress(bytes(32 << 20)))
    with pytest.raises(Refused, match=f"unpacks to more than .* bytes; .*{MOST_BYTES}"):
        report.read_report(path)
    monkeypatch.setenv(MOST_BYTES, str(64 << 20))
    with pytest.raises(Refused, match="not a SQLite file"):
        report.read_report(path)
    monkeypatch.setenv(MOST_BYTES, "much")
    with pytest.raises(UsageError, match="give a number of bytes"):
        report.read_report(path)


def test_a_parquet_file_of_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": np.zeros(2_000_000, np.int64)}), tmp_path / "T.parquet")
    with pytest.raises(Refused, match=r"2,000,000 rows in .* bytes"):
        FolderOfTables(tmp_path)


def test_a_file_whose_pages_unpack_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LEAST_UNPACKED", 1 << 16)
    texts = pa.array(["x" * 1_000_000 + str(at) for at in range(8)])
    pq.write_table(pa.table({"a": texts}), tmp_path / "T.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(Refused, match="bytes that unpack to 8,0"):
        FolderOfTables(tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_values_that_very_many_rows_share_are_counted_for_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, suffix: str
) -> None:
    """A file of a kilobyte can hold gigabytes, each row a place in its dictionary."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 30_000, pa.int32()), pa.array(["x" * 4000]).cast(kind))
    write_file(pa.table({"a": shared}), tmp_path / f"T{suffix}")
    monkeypatch.setenv(MOST_BYTES, str(1 << 23))
    folder = FolderOfTables(tmp_path)
    with pytest.raises(Refused, match=r"more than 8,388,608 bytes of text in a; .*set DSOCR_NVTX_MOST_BYTES"):
        list(folder.blobs("T", "a")) if pa.types.is_binary(kind) else folder.strings("T", "a")
    monkeypatch.setenv(MOST_BYTES, str(1 << 28))
    assert set(folder.strings("T", "a").to_pylist()) == {"x" * 4000}
    assert {value for piece in folder.blobs("T", "a") for value in piece.to_pylist()} == {b"x" * 4000}


def test_a_long_name_that_rows_share_is_cut_as_any_other(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["é" * 5000, "x", None, "é" * 5000]}), tmp_path / "T.parquet")
    assert FolderOfTables(tmp_path).strings("T", "a").to_pylist() == ["é" * 4095 + "…", "x", None, "é" * 4095 + "…"]


def test_no_bit_of_a_parquet_file_ends_the_process(tmp_path: Path) -> None:
    """pyarrow 26 ends it where damaged notes of a column, or statistics, are asked for by themselves."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "T.parquet", compression="none", store_schema=False)
    whole = (tmp_path / "T.parquet").read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "T.parquet").write_bytes(data)
        with suppress(Refused):
            FolderOfTables(tmp_path).integers("T", ["a"])


def test_texts_that_take_too_much_together_are_refused_by_their_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MOST_BYTES, "5000")
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 100,)] * 60)
    connection.close()
    with SqliteFile(tmp_path / "a.sqlite") as file, pytest.raises(Refused, match=r"5,000 bytes of text in t\.a"):
        file.strings("t", "a")
    pq.write_table(pa.table({"a": ["x" * 100] * 60}), tmp_path / "t.parquet")
    with pytest.raises(Refused, match="5,000 bytes of text in a"):
        FolderOfTables(tmp_path).strings("t", "a")


def test_tables_and_columns_of_a_folder_are_found_in_any_case(tmp_path: Path) -> None:
    pq.write_table(pa.table({"DeviceId": [3, 4], "one": [1, 1], "name": ["x", "y"]}), tmp_path / "Kernel.parquet")
    folder = FolderOfTables(tmp_path)
    assert folder.has("KERNEL", "deviceId", "ONE")
    found = folder.integers("KERNEL", ["deviceId", "One", "deviceId*ONE", "absent"])
    assert {name: values.tolist() for name, values in found.items()} == {
        "deviceId": [3, 4], "One": [1, 1], "deviceId*ONE": [3, 4], "absent": [-(2**63)] * 2,
    }  # fmt: skip
    assert folder.strings("kernel", "NAME").to_pylist() == ["x", "y"]
    pq.write_table(pa.table({"a": [1]}), tmp_path / "KERNEL.parquet")
    with pytest.raises(Refused, match="two files of one table"):
        FolderOfTables(tmp_path)


def test_a_report_of_an_old_nsys_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.qdrep"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(Refused, match=r"before 2021\.4 .*nsys export -t sqlite old\.qdrep"):
        report.read_report(path)
