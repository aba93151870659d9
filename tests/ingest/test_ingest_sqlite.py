"""A stranger's SQLite file: columns by name, whole numbers, and one clear line for everything else."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.sqlite import SqliteFile

NULL = -(2**63)


def made(path: Path, script: str) -> Path:
    """Write a SQLite file."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def test_columns_come_by_name_and_null_and_missing_columns_read_as_null(tmp_path: Path) -> None:
    path = made(
        tmp_path / "a.sqlite", "CREATE TABLE t (b INTEGER, a INTEGER); INSERT INTO t VALUES (1, 2), (NULL, -4);"
    )
    with SqliteFile(path) as file:
        found = file.integers("t", ("a", "b", "absent"))
        assert {name: values.tolist() for name, values in found.items()} == {
            "a": [2, -4],
            "b": [1, NULL],
            "absent": [NULL, NULL],
        }
        assert {values.dtype for values in found.values()} == {np.dtype(np.int64)}
        assert file.integers("no_such_table", ("a",))["a"].tolist() == []
        assert file.has("t", "a", "b")
        assert not file.has("t", "a", "absent")
        assert not file.has("no_such_table")


@pytest.mark.parametrize("value", ["1.5", "'one'", "x'00'", "9223372036854775808", "1e300"])
def test_a_value_that_is_no_integer_is_refused(tmp_path: Path, value: str) -> None:
    path = made(tmp_path / "a.sqlite", f"CREATE TABLE t (a); INSERT INTO t VALUES (1), ({value});")
    with SqliteFile(path) as file, pytest.raises(Refused, match="t holds values that are not integers"):
        file.integers("t", ("a",))


def test_the_file_is_opened_read_only_and_left_as_it_was(tmp_path: Path) -> None:
    path = made(tmp_path / "with space?and#mark.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    before = path.read_bytes()
    with SqliteFile(path) as file, pytest.raises(Refused, match="readonly"):
        file.rows("INSERT INTO t VALUES (2)")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty file"),
        (b"SQLite", "not a SQLite file"),
        (b"a line of text\n", "not a SQLite file"),
        (b"\x00" * 4096, "not a SQLite file"),
        (b"SQLite format 3\x00", "damaged"),
        (b"SQLite format 3\x00" + b"\xff" * 4096, "damaged"),
    ],
)
def test_what_is_not_sqlite_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    with pytest.raises(Refused, match=found):
        SqliteFile(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        SqliteFile(tmp_path / "a.sqlite")
    with pytest.raises(Refused, match="not a regular file"):
        SqliteFile(tmp_path)


def test_a_file_cut_short_is_refused_wherever_the_cut_falls(tmp_path: Path) -> None:
    path = made(
        tmp_path / "a.sqlite",
        "CREATE TABLE t (a INTEGER, b TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)"
        " INSERT INTO t SELECT i, printf('%.*c', 40, 'x') FROM n;",
    )
    whole = path.read_bytes()

    def total() -> int:
        with SqliteFile(path) as file:
            return int(file.integers("t", ("a",))["a"].sum())

    assert total() == 2001000  # 2000 x 2001 / 2
    for length in (*range(16, len(whole) - 1, 4096 + 1000), len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Refused, match="damaged"):
            total()


def test_names_of_tables_and_columns_are_found_in_any_case_as_in_sql(tmp_path: Path) -> None:
    path = made(
        tmp_path / "a.sqlite", "CREATE TABLE Kernel (DeviceId INTEGER, name TEXT); INSERT INTO Kernel VALUES (3, 'x');"
    )
    for fast in (True, False):
        with SqliteFile(path, fast=fast) as file:
            assert file.has("KERNEL", "deviceId")
            assert file.integers("KERNEL", ("deviceId",))["deviceId"].tolist() == [3]
            assert file.strings("kernel", "NAME").to_pylist() == ["x"]


def test_a_view_in_a_tables_place_is_refused_and_any_other_is_let_be(tmp_path: Path) -> None:
    path = made(tmp_path / "a.sqlite", "CREATE TABLE x (a INTEGER); CREATE VIEW Kernel AS SELECT * FROM x;")
    with SqliteFile(path) as file:
        assert file.has("x", "a")
        for ask in (lambda: file.has("KERNEL"), lambda: file.integers("KERNEL", ("a",))):
            with pytest.raises(Refused, match="KERNEL is a view"):
                ask()


def test_a_file_in_wal_mode_is_read_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    """Its last changes are in the journal: they count where it is there, and no file is made where it is not."""
    path = tmp_path / "a.sqlite"
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (a INTEGER)")
    writer.execute("INSERT INTO t VALUES (7)")
    writer.commit()
    busy = tmp_path / "busy"
    busy.mkdir()
    for end in ("", "-wal"):
        (busy / f"a.sqlite{end}").write_bytes((tmp_path / f"a.sqlite{end}").read_bytes())
    writer.close()
    for folder, beside in ((busy, ["a.sqlite", "a.sqlite-wal"]), (tmp_path, ["a.sqlite", "busy"])):
        with SqliteFile(folder / "a.sqlite") as file:
            assert file.integers("t", ("a",))["a"].tolist() == [7]
        assert sorted(found.name for found in folder.iterdir()) == beside


def test_what_sqlite_says_of_a_name_that_is_no_utf8_is_a_refusal(tmp_path: Path) -> None:
    path = made(tmp_path / "a.sqlite", "CREATE TABLE tt (abcdefgh INTEGER); CREATE VIEW v AS SELECT abcdefgh FROM tt;")
    path.write_bytes(path.read_bytes().replace(b"SELECT abcdefgh", b"SELECT \xff\xfeabcdef"))
    with pytest.raises(Refused, match="damaged or unreadable"), SqliteFile(path) as file:
        file.rows("SELECT * FROM v")


@pytest.mark.parametrize("letter", ["x", "\u20ac", "\U0001f600"])
def test_a_text_that_is_cut_ends_in_a_mark_that_says_so(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [(letter * count,) for count in (4096, 4097, 20_000)])
    connection.close()
    for fast in (True, False):
        with SqliteFile(path, fast=fast) as file:
            assert file.strings("t", "a").to_pylist() == [letter * 4096, *[letter * 4095 + "\u2026"] * 2]
