"""Files are written whole or not at all, in the format of their suffix, and read back only if ours."""

import csv
import json
import os
from contextlib import nullcontext, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsocr_nvtx.errors import Refused, UsageError
from dsocr_nvtx.schema.files import (
    check_directory,
    check_file,
    check_format,
    read_table,
    replacing,
    replacing_directory,
    write_json,
    write_table,
    write_text,
)
from dsocr_nvtx.schema.tables import KERNELS, SCHEMA_VERSION
from tests.builders.tables import filled

TABLE = filled(KERNELS, [{"start_ns": 5, "name": 'a "quoted", name', "stage": None}, {"start_ns": -7, "event_id": 3}])


def test_arrow_comes_back_equal(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / "new" / "k.arrow")
    back = read_table(tmp_path / "new" / "k.arrow")
    assert back.equals(TABLE)
    assert back.schema.equals(TABLE.schema, check_metadata=True)


def test_parquet_csv_and_json_hold_the_same_rows(tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "json"):
        write_table(TABLE, tmp_path / f"k.{suffix}")
    assert pq.read_table(tmp_path / "k.parquet").to_pylist() == TABLE.to_pylist()
    assert json.loads((tmp_path / "k.json").read_text()) == TABLE.to_pylist()
    with (tmp_path / "k.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == TABLE["name"].to_pylist()
    assert [row["start_ns"] for row in rows] == ["5", "-7"]
    assert [row["event_id"] for row in rows] == ["", "3"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k.csv", "k.json", "k.parquet"]


@pytest.mark.parametrize("name", ["k.xlsx", "k", "k.arrow.gz", ".arrow"])
def test_a_format_nobody_knows_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.arrow, \.parquet, \.csv, \.json"):
        check_format(tmp_path / name)
    with pytest.raises(UsageError):
        write_table(TABLE, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_what_stood_there(tmp_path: Path) -> None:
    target = tmp_path / "k.json"
    target.write_text("before")
    with pytest.raises(TypeError):
        write_json({"a": {1, 2}}, target)

    def interrupted() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["k.json"]
    assert target.read_text() == "before"


def test_a_file_is_replaced_only_when_told_and_nothing_but_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link to folder").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "absent", force=False)
    for name, found in (("file", "a file"), ("link", "a link"), ("dangling", "a link")):
        with pytest.raises(Refused, match=f"{found} is there already; .* --force"):
            check_file(tmp_path / name, force=False)
        check_file(tmp_path / name, force=True)
    for name, found in (("folder", "a directory"), ("link to folder", "a directory"), ("pipe", "a pipe")):
        for force in (False, True):
            with pytest.raises(Refused, match=f"{found}; name a file"):
                check_file(tmp_path / name, force=force)


def test_a_write_without_force_refuses_at_once(tmp_path: Path) -> None:
    target = tmp_path / "k.json"
    target.write_text("before")
    with pytest.raises(Refused, match="--force"):
        write_text("x", target, force=False)
    with pytest.raises(Refused, match="--force"):
        write_json({}, target, force=False)
    with pytest.raises(Refused, match="--force"):
        write_table(TABLE, target, force=False)
    assert target.read_text() == "before"
    write_text("after", target)
    assert target.read_text() == "after"
    assert [p.name for p in tmp_path.iterdir()] == ["k.json"]


@pytest.mark.parametrize("force", [False, True])
def test_of_two_that_write_one_file_at_once_one_whole_file_is_left(tmp_path: Path, force: bool) -> None:
    target = tmp_path / "k.json"
    with suppress(Refused) if not force else nullcontext(), replacing(target, force=force) as slow:
        slow.write_text("slow, fir")
        with replacing(target, force=force) as fast:
            fast.write_text("fast")
        assert target.read_text() == "fast"
        slow.write_text("slow, first and last")
    assert target.read_text() == ("slow, first and last" if force else "fast")
    assert [p.name for p in tmp_path.iterdir()] == ["k.json"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"

    def interrupted() -> None:
        with replacing_directory(target, "join.json") as folder:
            (folder / "half").write_text("half")
            assert not target.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "deep").iterdir())
    with replacing_directory(target, "join.json") as folder:
        (folder / "join.json").write_text("{}")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]
    assert [p.name for p in target.iterdir()] == ["join.json"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_a_directory_stays_and_leads_to_what_was_written(tmp_path: Path, *, exists: bool) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    if exists:
        real.mkdir()
    for force, text in ((False, "first"), (True, "second")):
        with replacing_directory(link, "marker", force=force) as directory:
            (directory / "marker").write_text(text)
        assert link.is_symlink()
        assert (real / "marker").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_only_a_directory_of_ours_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_directory(tmp_path / "absent", "join.json", force=False)
    check_directory(tmp_path / "empty", "join.json", force=False)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(Refused, match="not deleted" if force else "--force"):
            check_directory(theirs, "join.json", force=force)
    (theirs / "join.json").write_text("{}")
    check_directory(theirs, "join.json", force=True)
    with pytest.raises(Refused, match="a file"):
        check_directory(theirs / "thesis.tex", "join.json", force=True)


@pytest.mark.parametrize("word", ["mkstemp", "mkdtemp"])
def test_a_place_that_refuses_is_told_by_the_users_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Whatever the temporary name was: nobody but this module knows it."""

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path / ".x.arrow.abcd.arrow"))

    monkeypatch.setattr(f"tempfile.{word}", refuse)
    target = tmp_path / "new" / "x.arrow"
    with pytest.raises(Refused) as caught, replacing(target) if word == "mkstemp" else replacing_directory(target, "m"):
        pass
    assert str(caught.value) == f"{target}: cannot be written: Permission denied; name a place that you can write to"


def test_what_goes_wrong_at_the_temporary_name_is_told_by_the_users_name(tmp_path: Path) -> None:
    target = tmp_path / "out"
    said = []
    for error in (
        lambda mine: OSError(30, "Read-only file system", str(mine / "a.arrow")),
        lambda mine: OSError(f"[Errno 2] Failed to open local file '{mine}/a.arrow'"),
        lambda mine: OSError(28, "No space left on device"),
        lambda mine: Refused(mine / "a.arrow", "too odd", "mend it"),
    ):
        with pytest.raises(Refused) as caught, replacing_directory(target, "marker") as temporary:
            raise error(temporary)
        assert str(temporary) not in str(caught.value)
        said.append(str(caught.value))
    assert said == [
        f"{target}/a.arrow: cannot be written: Read-only file system; name a place that you can write to",
        f"{target}: cannot be written: [Errno 2] Failed to open local file '{target}/a.arrow'; "
        "name a place that you can write to",
        f"{target}: cannot be written: No space left on device; make room there",
        f"{target}/a.arrow: too odd; mend it",
    ]
    for other in (
        FileNotFoundError(2, "No such file", "input"),
        BrokenPipeError(32, "Broken pipe"),
        Refused("b", "c", "d"),
    ):
        with pytest.raises(type(other)) as kept, replacing_directory(target, "marker"):
            raise other
        assert kept.value is other
    assert not list(tmp_path.iterdir())


def test_what_came_to_stand_there_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def overtaken() -> None:
        with replacing_directory(target, "join.json"):
            target.mkdir()
            (target / "other").write_text("another join's")

    with pytest.raises(Refused, match="--force"):
        overtaken()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in target.iterdir()] == ["other"]


def _arrow(path: Path, metadata: dict[str, str] | None) -> Path:
    table = pa.table({"a": [1]}).replace_schema_metadata(metadata)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("content", [b"", b"text", b"ARROW1\x00\x00 cut short", b"ARROW1\x00\x00"])
def test_what_is_not_arrow_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k.arrow"
    path.write_bytes(content)
    with pytest.raises(Refused, match="not an Arrow IPC file"):
        read_table(path)


def test_a_missing_table_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        read_table(tmp_path / "k.arrow")
    with pytest.raises(Refused, match="not an Arrow IPC file"):
        read_table(tmp_path)


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.arrow"
    write_table(TABLE, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(Refused):
            read_table(path)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (None, "not written by dsocr-nvtx"),
        ({"schema_version": "one"}, "not written by dsocr-nvtx"),
        ({"schema_version": "0"}, "not written by dsocr-nvtx"),
        ({"schema_version": str(SCHEMA_VERSION + 1)}, "upgrade dsocr-nvtx"),
    ],
)
def test_a_strangers_table_and_a_newer_one_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None, found: str
) -> None:
    with pytest.raises(Refused, match=found):
        read_table(_arrow(tmp_path / "k.arrow", metadata))


def test_every_version_so_far_still_opens(tmp_path: Path) -> None:
    for version in range(1, SCHEMA_VERSION + 1):
        path = _arrow(tmp_path / f"{version}.arrow", {"schema_version": str(version)})
        assert read_table(path)["a"].to_pylist() == [1]


def test_csv_and_text_hold_no_byte_that_moves_a_cursor(tmp_path: Path) -> None:
    name = "a\x1b[31m\x9b\u202eb\nc"
    write_table(filled(KERNELS, [{"name": name}, {"name": "plain"}]), tmp_path / "k.csv")
    write_text(f"<p>{name}\udcff</p>\n", tmp_path / "p.html")
    with (tmp_path / "k.csv").open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["a\\x1b[31m\\x9b\\u202eb\nc", "plain"]
    assert (tmp_path / "p.html").read_text() == "<p>a\\x1b[31m\\x9b\\u202eb\nc\\udcff</p>\n"
