"""Both ways of reading SQLite, and both folder formats, give the same tables: on random files and on real exports."""

import lzma
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest import folder as folder_module
from dsocr_nvtx.ingest.cells import windows
from dsocr_nvtx.ingest.folder import FolderOfTables
from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.ingest.source import Source
from dsocr_nvtx.ingest.sqlite import SqliteFile
from tests.builders.folders import as_folder, write_file
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload_v1 as payload

EXPORTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "nsys"

edges = [
    0,
    1,
    -1,
    127,
    -128,
    128,
    2**15,
    -(2**15) - 1,
    2**23,
    -(2**23) - 1,
    2**31,
    2**47,
    -(2**47) - 1,
    2**63 - 1,
    -(2**62),
]
numbers = st.sampled_from(edges) | st.integers(-(2**40), 2**40) | st.none()
texts = st.none() | st.text(max_size=40) | st.sampled_from(["", "é", "x" * 300, "y" * 5000, "z\x00z", "€" * 4096])
blobs = st.none() | st.binary(max_size=60) | st.sampled_from([b"\xff" * 700, b"q" * 9000])
rows = st.lists(st.tuples(numbers, texts, numbers, blobs), max_size=60)


def marked(text: str) -> str:
    """Return a text as readers give it: one of more than 4096 characters ends in a mark that says so."""
    return text if len(text) <= 4096 else text[:4095] + "\u2026"


def outcome(source: Source, method: str, *arguments: object) -> object:
    """Return what a call gives as plain data, a refusal as its text."""
    try:
        found = getattr(source, method)(*arguments)
        found = pa.chunked_array(list(found), pa.binary()) if method == "blobs" else found
    except Refused as refused:
        return str(refused)
    if isinstance(found, dict):
        return {name: values.tolist() for name, values in found.items()}
    return found.to_pylist()


def assert_equal(one: Source, other: Source, tables: Iterator[str] | None = None) -> None:
    """Compare every column of every table, read as each type, whole and in part."""
    assert one.columns == other.columns
    for table in tables or sorted(one.columns):
        for column in sorted(one.columns[table]):
            whole = outcome(one, "integers", table, [column, "absent"])
            assert whole == outcome(other, "integers", table, [column, "absent"]), (table, column)
            count = len(one.integers(table, ["absent"])["absent"])
            for mask in (None, np.arange(count) % 3 == 1):
                for method in ("strings", "blobs"):
                    assert outcome(one, method, table, column, mask) == outcome(other, method, table, column, mask)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows, st.sampled_from([512, 1024, 4096, 65536]), st.integers(0, 4), st.sampled_from(["UTF-8", "UTF-16"]))
def test_pages_read_as_sqlite_reads_them(
    tmp_path: Path, found: list[tuple[object, ...]], page: int, keep: int, encoding: str
) -> None:
    path = tmp_path / "a.sqlite"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size = {page}")
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    connection.execute("CREATE TABLE t (a INTEGER, b TEXT, id INTEGER PRIMARY KEY, c INTEGER, d TEXT)")
    connection.execute("CREATE TABLE w (a INTEGER, b TEXT, k INTEGER PRIMARY KEY) WITHOUT ROWID")
    connection.executemany("INSERT INTO t (a, b, c, d) VALUES (?, ?, ?, ?)", found)
    connection.executemany("INSERT INTO w VALUES (?, ?, ?)", [(*row[:2], at) for at, row in enumerate(found)])
    connection.execute("DELETE FROM t WHERE id % 5 < ?", (keep,))
    connection.execute("ALTER TABLE t ADD COLUMN e INTEGER")
    connection.execute("ALTER TABLE t ADD COLUMN f INTEGER DEFAULT 7")
    connection.executemany("INSERT INTO t (a, e, f) VALUES (?, ?, ?)", [(1, 2, 3), (None, None, None)])
    connection.execute("CREATE INDEX i ON t (a DESC, b, c, d, e, f)")
    connection.commit()
    connection.close()
    with SqliteFile(path) as fast, SqliteFile(path, fast=False) as plain:
        assert_equal(fast, plain)


def test_products_are_made_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [(2, 3, 5), (0, 7, 1), (None, 7, 1), (7, 1, None)])
    connection.close()
    folder = as_folder(path, tmp_path / "folder", ".parquet")
    with SqliteFile(path) as fast, SqliteFile(path, fast=False) as plain:
        for source in (fast, plain, FolderOfTables(folder)):
            found = source.integers("t", ["a*b*c", "b", "a*absent"])
            assert found["a*b*c"].tolist() == [30, 0, -(2**63), -(2**63)]
            assert found["b"].tolist() == [3, 7, 7, 1]
            assert found["a*absent"].tolist() == [-(2**63)] * 4


@pytest.mark.parametrize("value", ["'one'", "1.5", "x'00'", "9223372036854775807", "-9223372036854775807"])
def test_values_of_another_type_are_refused_alike(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.execute(f"INSERT INTO t VALUES (1, 'x'), ({value}, {value})")
    connection.close()
    with SqliteFile(path) as fast, SqliteFile(path, fast=False) as plain:
        assert_equal(fast, plain)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_page_is_refused_where_sqlite_finds_it_damaged_and_else_read_alike(tmp_path: Path, seed: int) -> None:
    """Flipped bits and overwritten bytes: what `PRAGMA quick_check` says of the file is right, and so are its rows."""
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i * 977, f"text {i}") for i in range(3000)])
    connection.close()
    whole, random = path.read_bytes(), np.random.default_rng(seed)
    for width in (1, 1, 1, 1, 1, 8):
        raw = bytearray(whole)
        at = int(random.integers(4096, len(raw)) if seed % 2 else 4096 * random.integers(1, len(raw) // 4096))
        if width == 1:
            raw[at + int(random.integers(12)) * (1 - seed % 2)] ^= 1 << int(random.integers(8))
        else:
            raw[at : at + 8] = random.bytes(8)[: len(raw) - at]
        path.write_bytes(raw)
        found, expected = (_read_or_refusal(path, fast=fast) for fast in (True, False))
        assert found == expected
        assert (found is None) == (quick_check(path) != "ok")


def quick_check(path: Path) -> str:
    """Return SQLite's own verdict on a file."""
    connection = sqlite3.connect(path)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.close()


def _read_or_refusal(path: Path, *, fast: bool) -> object:
    """Return the columns of table t, or None where the file is refused."""
    try:
        with SqliteFile(path, fast=fast) as file:
            return file.integers("t", ["a"])["a"].tolist(), file.strings("t", "b").to_pylist()
    except Refused:
        return None


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_folders_of_tables_give_the_same_trace(tmp_path: Path, suffix: str) -> None:
    file = NsysFile()
    file.device(pids=[1])
    file.domain(1)
    file.schema()
    file.push_pop("decoder", 100, 900, values=payload(event_id=3, stage=2, tensor_flops=5), json=True)
    file.push_pop("decoder.1", 200, None, values=payload(event_id=4, stage=2, tensor_flops=2), binary=False)
    file.mark("dsocr/1 decoder " + " ".join(map(str, payload(event_id=3, stage=2))), 90)
    file.launch("gemm", 110, 120, 150)
    path = file.write(tmp_path / "report.sqlite")
    with sqlite3.connect(path) as connection:  # a mark whose text is registered, beside the plain one
        told = "dsocr/1 decoder " + " ".join(map(str, payload(event_id=9, stage=2)))
        connection.execute("INSERT INTO StringIds VALUES (99, ?)", [told])
        where = "INSERT INTO NVTX_EVENTS (start, eventType, textId, globalTid) SELECT 95, 34, 99, globalTid"
        connection.execute(f"{where} FROM NVTX_EVENTS WHERE eventType = 34")
    connection.close()
    one, other = read(path), read(as_folder(path, tmp_path / "folder", suffix))
    for name in ("nvtx", "announcements", "launches", "operations", "graph_nodes"):
        assert getattr(one, name).equals(getattr(other, name)), name
    assert (one.devices, one.source) == (other.devices, other.source)
    assert len(other.announcements) == 2
    assert [other.nvtx[name].null_count for name in ("payload", "json")] == [1, 1]


def test_text_of_a_folder_that_is_no_utf8_is_replaced(tmp_path: Path) -> None:
    # nsys writes what it was given, as strings that are not checked.
    said = pa.array([b"plain", b"\xff\xfeodd", None, "\u20ac".encode() * 5000], pa.large_binary())
    for kind in (pa.large_string(), pa.large_binary()):
        pq.write_table(pa.table({"text": said.view(kind), "nothing": pa.nulls(4, kind)}), tmp_path / "T.parquet")
        folder = FolderOfTables(tmp_path)
        expected = ["plain", "\ufffd\ufffdodd", None, "\u20ac" * 4095 + "\u2026"]
        assert folder.strings("T", "text").to_pylist() == expected
        rows = np.array([False, True, True, False])
        assert folder.strings("T", "text", rows).to_pylist() == expected[1:3]
        assert pa.chunked_array(list(folder.blobs("T", "text", rows))).to_pylist() == [b"\xff\xfeodd", None]
        for found in (folder.strings("T", "nothing", rows), *folder.blobs("T", "nothing", rows)):
            assert found.to_pylist() == [None, None]
        assert folder.integers("T", ["nothing"])["nothing"].tolist() == [-(2**63)] * 4


def test_rows_of_a_folder_are_found_whichever_pieces_they_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_PIECE_ROWS", 4)
    monkeypatch.setattr(folder_module, "_BLOB_ROWS", 3)
    monkeypatch.setattr(folder_module, "_LARGE_PAGE", 8)
    words = [f"word {i}" for i in range(23)]
    numbers = pa.array([None if i % 5 == 3 else i - 9 for i in range(23)], pa.int64())
    pq.write_table(pa.table({"w": words, "n": numbers}), tmp_path / "T.parquet", row_group_size=10)
    folder = FolderOfTables(tmp_path)
    assert folder.integers("T", ["n"])["n"].tolist() == [-(2**63) if i % 5 == 3 else i - 9 for i in range(23)]
    for wanted in ([], [0], [22], [3, 4, 11], list(range(23))):
        rows = np.isin(np.arange(23), wanted)
        assert folder.strings("T", "w", rows).to_pylist() == [words[i] for i in wanted]
        blobs = pa.chunked_array(list(folder.blobs("T", "w", rows)), pa.binary())
        assert blobs.to_pylist() == [words[i].encode() for i in wanted]


def test_columns_of_one_value_are_told_from_others_whatever_the_row_groups(tmp_path: Path) -> None:
    columns = {
        "one": pa.array([7] * 6, pa.int32()),
        "by group": pa.array([1, 1, 1, 2, 2, 2]),
        "one or null": pa.array([5, 5, 5, 5, None, 5]),
        "null": pa.array([None] * 6, pa.int64()),
        "group of nulls": pa.array([3, 3, 3, None, None, None]),
        "large": pa.array([(1 << 64) - 1] * 6, pa.uint64()),
    }
    for rows in (0, 6):
        table = pa.table(columns).slice(0, rows)
        pq.write_table(table, tmp_path / "T.parquet", row_group_size=3)
        found = FolderOfTables(tmp_path).integers("T", [*columns, "by group*one", "one*null", "one*one", "absent"])
        null = -(2**63)
        expected = {
            "one": [7] * 6, "by group": [1, 1, 1, 2, 2, 2], "one or null": [5, 5, 5, 5, null, 5], "null": [null] * 6,
            "group of nulls": [3, 3, 3, null, null, null], "large": [-1] * 6, "by group*one": [7, 7, 7, 14, 14, 14],
            "one*null": [null] * 6, "one*one": [49] * 6, "absent": [null] * 6,
        }  # fmt: skip
        assert {name: values.tolist() for name, values in found.items()} == {n: v[:rows] for n, v in expected.items()}


def test_a_folder_keeps_unsigned_words_and_refuses_what_is_no_integer(tmp_path: Path) -> None:
    words = pa.array([0, 1 << 62, None], pa.uint64())
    pq.write_table(
        pa.table({"a": words, "b": pa.array([1.5, 2.0, None]), "c": [b"x", b"\xff", None]}), tmp_path / "T.parquet"
    )
    folder = FolderOfTables(tmp_path)
    assert folder.integers("T", ["a"])["a"].tolist() == [0, 1 << 62, -(2**63)]
    assert folder.strings("T", "c").to_pylist() == ["x", "\ufffd", None]
    assert pa.chunked_array(list(folder.blobs("T", "c"))).to_pylist() == [b"x", b"\xff", None]
    with pytest.raises(Refused, match=r"T\.parquet.*not integers"):
        folder.integers("T", ["b"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_no_text_of_a_folder_is_left_that_is_not_text(tmp_path: Path, kind: pa.DataType, suffix: str) -> None:
    # Surrogates, an overlong zero, beyond the last character; no null, so that statistics have a least value.
    odd = [b"\xe9t\xe9", b"z\xed\xa0\x80", b"\xc0\x80", b"\xf7\xbf\xbf\xbf", b"x" * 5000, b"plain"]
    raw = pa.array(odd, pa.large_binary() if str(kind).startswith("large") else pa.binary())
    write_file(pa.table({"s": raw.view(kind)}), tmp_path / f"T{suffix}")
    found = FolderOfTables(tmp_path).strings("T", "s")
    assert found.type == pa.string()
    assert found.to_pylist() == [marked(raw.decode(errors="replace")) for raw in odd]


def test_a_mapped_file_is_not_taken_at_its_word(tmp_path: Path) -> None:
    # Offsets that lead out of the text would be followed into whatever lies there.
    offsets, text = pa.py_buffer(struct.pack("<4q", 0, 1, 1 << 40, 3)), pa.py_buffer(b"abc")
    lying = pa.LargeStringArray.from_buffers(3, offsets, text)
    batch = pa.record_batch([lying], ["s"])
    with pa.OSFile(str(tmp_path / "T.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    folder = FolderOfTables(tmp_path)
    with pytest.raises(Refused, match=r"T\.arrow: damaged"):
        folder.strings("T", "s")
    with pytest.raises(Refused, match=r"T\.arrow: damaged"):
        list(folder.blobs("T", "s"))


def test_a_file_that_counts_its_rows_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = list(range(70000))
    pq.write_table(pa.table({"a": numbers, "s": list(map(str, numbers))}), tmp_path / "T.parquet")
    for count, message in ((69999, "70,000 rows, and 69,999 by its own"), (1 << 59, "damaged or unreadable")):
        folder = FolderOfTables(tmp_path)
        folder._files["t"].count = count
        with pytest.raises(Refused, match=message):
            folder.integers("T", ["a"])
    about = pq.read_metadata(tmp_path / "T.parquet")
    for count in (-1, 69999, 1 << 61):
        lying = SimpleNamespace(num_rows=count, num_row_groups=about.num_row_groups, row_group=about.row_group,
                                schema=about.schema, num_columns=about.num_columns)  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(pq, "read_metadata", Mock(return_value=lying))
            with pytest.raises(Refused, match=f"70,000 rows, and {count:,} by its own"):
                FolderOfTables(tmp_path)
    for count in (69999, 70001):
        folder = FolderOfTables(tmp_path)
        folder._files["t"].count = count
        with pytest.raises(Refused, match=f"70,000 rows, and {count:,} by its own"):
            folder.strings("T", "s")


def test_odd_columns_of_a_folder(tmp_path: Path) -> None:
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    codes = pa.table({"a": pa.array([5, None, 6, 5]).dictionary_encode(), "s": pa.array([{"x": 1}] * 4)})
    for suffix in (".parquet", ".arrow"):
        path = tmp_path / f"T{suffix}"
        write_file(twice, path)
        with pytest.raises(Refused, match=rf"T\{suffix}: damaged or unreadable .two columns of one name"):
            FolderOfTables(tmp_path)
        write_file(codes, path)
        folder = FolderOfTables(tmp_path)
        assert folder.integers("T", ["a"])["a"].tolist() == [5, -(2**63), 6, 5]
        with pytest.raises(Refused, match=rf"T\{suffix}: damaged or unreadable"):
            folder.strings("T", "s")
        path.unlink()


@given(st.binary(min_size=1, max_size=60), st.lists(st.integers(0, 59), min_size=1, max_size=8), st.integers(1, 9))
def test_windows_are_the_bytes_at_each_place(flat: bytes, places: list[int], width: int) -> None:
    inside = [place for place in places if place + width <= len(flat)]
    for chosen in (inside, sorted(inside), inside[:1], list(range(0, len(flat) - width + 1, width + 1))):
        found = windows(np.frombuffer(flat, np.uint8), np.array(chosen, np.int64), width)
        assert [row.tobytes() for row in found] == [flat[place : place + width] for place in chosen]


def test_a_folder_that_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"a directory without \.parquet or \.arrow files"):
        read(tmp_path)
    (tmp_path / "NVTX_EVENTS.parquet").write_bytes(b"PAR1" + struct.pack("<I", 9))
    with pytest.raises(Refused, match=r"NVTX_EVENTS\.parquet: damaged"):
        read(tmp_path)


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the public exports in ../shared/data/nsys are not here")
@pytest.mark.parametrize("packed", sorted(EXPORTS.glob("*.sqlite.xz")), ids=lambda p: p.name.split(".")[0])
def test_real_exports_read_alike(tmp_path: Path, packed: Path) -> None:
    path = tmp_path / packed.stem
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    tables = ("NVTX_EVENTS", "StringIds", "TARGET_INFO_GPU", "TARGET_INFO_SYSTEM_ENV", "META_DATA_EXPORT")
    with SqliteFile(path) as fast, SqliteFile(path, fast=False) as plain:
        assert fast.columns == plain.columns
        wanted = [t for t in fast.columns if t.startswith(("CUPTI_", "CUDA_")) or t in tables]
        assert_equal(fast, plain, iter(wanted))
