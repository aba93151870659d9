"""What `join` wrote, opened: and what is none of its, refused in one line."""

from pathlib import Path

import pytest

from dsocr_nvtx.compare.comparison import compare
from dsocr_nvtx.compare.outs import read_out
from dsocr_nvtx.compare.verdicts import Verdict
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.files import read_table, write_json, write_table
from tests.builders.runs import call, out_of, write_out


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = read_out(write_out(out_of([call(100), call(50, origin="replayed")]), tmp_path))
    assert (found.level, found.decode_mode, found.processes, found.dtypes) == ("op", "graph", 1, {"bfloat16"})
    assert found.about["device"] == "NVIDIA H200"


def test_no_directory_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such directory; name a directory that dsocr-nvtx join wrote"):
        read_out(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="a file, not the directory that join wrote"):
        read_out(tmp_path / "file")


@pytest.mark.parametrize("name", ["ranges", "roofline", "stages"])
def test_a_missing_table_is_refused(tmp_path: Path, name: str) -> None:
    (write_out(out_of([call(100)]), tmp_path) / f"{name}.arrow").unlink()
    with pytest.raises(Refused, match=rf"{name}\.arrow: no such file"):
        read_out(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_out(out_of([call(100)]), tmp_path) / "ranges.arrow"
    write_table(read_table(path).drop_columns(["busy_owned_ns", "kv_len"]), path)
    with pytest.raises(Refused, match=r"no column kv_len, busy_owned_ns; .*join the report again"):
        read_out(tmp_path)


def test_a_missing_level_is_refused(tmp_path: Path) -> None:
    path = write_out(out_of([call(100)]), tmp_path) / "roofline.arrow"
    table = read_table(path)
    write_table(table.replace_schema_metadata({b"schema_version": b"1"}), path)
    with pytest.raises(Refused, match="no level"):
        read_out(tmp_path)


def test_tables_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    path = write_out(out_of([call(100)]), tmp_path) / "stages.arrow"
    write_table(read_table(path).replace_schema_metadata({b"schema_version": b"99"}), path)
    with pytest.raises(Refused, match="upgrade dsocr-nvtx"):
        read_out(tmp_path)


def test_records_that_one_report_lacks_since_they_cannot_be_are_said(tmp_path: Path) -> None:
    a, b = (write_out(out_of([call(100)]), tmp_path / name) for name in ("a", "b"))
    told = {"set_apart": [{"what": "GPU operation", "why": "ends before it began", "records": 9}], "stalls": []}
    write_json(told, b / "join.json")
    assert (
        "not in B, since they cannot be: 9 GPU operations: ends before it began"
        in compare(read_out(a), read_out(b)).warnings
    )
    write_json({"stalls": [{"ns": "long"}]}, b / "join.json")
    with pytest.raises(Refused, match="its stalls are not those of a join"):
        read_out(b)


def test_a_join_of_a_version_that_did_not_tell_rows_or_queued_time_is_compared(tmp_path: Path) -> None:
    """Oracle: the same run as this version writes it; its rows are the product of batch and tokens."""
    run = out_of([call(100, 10, step=step, batch=2, tokens=3, rows=6) for step in range(10)])
    new, old = (write_out(run, tmp_path / name) for name in ("new", "old"))
    ranges = read_table(old / "ranges.arrow").drop_columns(["rows", "idle_queued_ns"])
    write_table(ranges, old / "ranges.arrow")
    assert {line.verdict for line in compare(read_out(old), read_out(new)).rows} == {Verdict.SAME}
