"""`dsocr-nvtx project` from the command line: a table in the format of the suffix, or one line and nothing left."""

import csv
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from dsocr_nvtx.schema.tables import PROJECTED
from tests.builders.nsys import NsysFile

COLUMNS = [
    "name", "style", "pid", "tid", "start_ns", "duration_ns", "projected_start_ns", "projected_duration_ns", "gpu_ops",
    "level", "children", "range_id", "parent_id", "range_stack",
]  # fmt: skip


def project(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "dsocr_nvtx", "project", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Return a report that no hook of ours made."""
    file = NsysFile()
    for depth, name in enumerate(("outer", "inner")):
        file.add(
            "NVTX_EVENTS",
            start=10 * depth,
            end=100 - depth,
            eventType=59,
            globalTid=(1 << 48) | (7 << 24) | 7,
            text=name,
        )
    file.launch("k", 20, 200, 230, pid=7)
    return file.write(tmp_path / "any.sqlite")


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "csv", "json"])
def test_every_format_has_the_promised_columns(report: Path, tmp_path: Path, suffix: str) -> None:
    done = project(report, "-o", tmp_path / f"p.{suffix}")
    assert (done.returncode, done.stderr) == (0, "")
    if suffix == "csv":
        with (tmp_path / "p.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert list(rows[0]) == COLUMNS
        assert [(r["name"], r["gpu_ops"], r["level"], r["projected_start_ns"]) for r in rows] == [
            (":outer", "1", "0", "200"), (":inner", "1", "1", "200"),
        ]  # fmt: skip
    if suffix == "arrow":
        table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "p.arrow"))).read_all()
        assert table.schema.equals(PROJECTED)
        assert table.schema.metadata[b"report"] == b"any.sqlite"


def test_a_suffix_that_is_no_format_is_wrong_usage_before_any_work(tmp_path: Path) -> None:
    done = project(tmp_path / "missing.sqlite", "-o", tmp_path / "p.txt")
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_report_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = project(tmp_path / "missing.sqlite", "-o", tmp_path / "p.csv")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert not list(tmp_path.iterdir())
