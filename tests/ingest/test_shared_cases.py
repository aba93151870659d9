"""Inputs on which the product was wrong once, as they were found: each gives its right answer or is refused."""

import json
import lzma
import shutil
from pathlib import Path

import pytest

from dsocr_nvtx.cli.join import join_report
from dsocr_nvtx.cli.project import project_report
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.files import read_table

CASES = Path(__file__).parents[2] / ".." / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases in ../shared/cases are not here")


def copied(name: str, folder: Path) -> Path:
    """Return a copy of a case's file, unpacked."""
    source, target = CASES / name, folder / Path(name).name.removesuffix(".xz")
    if source.suffix == ".xz":
        target.write_bytes(lzma.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, target)
    return target


def accounting(report: Path, ceilings: Path | None = None) -> dict[str, object]:
    """Join a report and return what join.json says."""
    out = report.with_suffix(".dsocr")
    join_report(report, run=None, out=out, hardware=None, ceilings=ceilings, force=False)
    found: dict[str, object] = json.loads((out / "join.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hostile/malformed-KERNEL-2.sqlite.xz", "malformed"),
        ("hostile/malformed-EVENTS-1.sqlite.xz", "malformed"),
        ("hostile/segv-payload-offset.sqlite.xz", "no range in the report has a cost"),
        ("hostile/hang-self-schema.sqlite.xz", "no range in the report has a cost"),
        ("hostile/v.sqlite.xz", "CUPTI_ACTIVITY_KIND_MEMCPY is a view"),
        ("qdrep-era-no-cuda/report.sqlite", "the report has no CUDA work"),
        ("project-empty-silent/renamed.sqlite", "no table NVTX_EVENTS, but NVTX_EVENTS_V2"),
    ],
)
def test_refused(tmp_path: Path, name: str, says: str) -> None:
    report = copied(name, tmp_path)
    with pytest.raises(Refused, match=says):
        accounting(report)
    assert [path.name for path in tmp_path.iterdir()] == [report.name]


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        ("join-no-timestamp/report.sqlite", [("no times", 1)]),
        ("one-negative-duration/joined.sqlite", [("ends before it begins", 1)]),
        ("hostile/lost-time.sqlite.xz", [("days away from the rest", 3)]),
    ],
)
def test_set_apart(tmp_path: Path, name: str, apart: list[tuple[str, int]]) -> None:
    found = accounting(copied(name, tmp_path))
    told = found["set_apart"]
    devices = found["devices"]
    assert isinstance(told, list)
    assert isinstance(devices, list)
    assert [(one["why"], one["records"]) for one in told] == apart
    assert [device["wall_ns"] < 100_000 for device in devices] == [True]


def test_damaged_ceilings(tmp_path: Path) -> None:
    report = copied("join-no-timestamp/report.sqlite", tmp_path)
    with pytest.raises(Refused, match=r"ceilings\.arrow"):
        accounting(report, CASES / "hostile" / "ceilings-abort" / "ceilings.arrow")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one-negative-duration/report.sqlite", {":a": (100, 200, 99, 2)}),
        ("project-domain-twice/report.sqlite", {"first:a": (40, 200, 30, 1)}),
        ("project-domain-twice/report2.sqlite", {"first:a": (40, 200, 30, 1)}),
        ("project-unclosed/report.sqlite", {":outer": (5000, 200, 3000, 2), ":inner": (95, 200, 30, 1)}),
        ("wal-readonly/report.sqlite", {":b": (100, 200, 30, 1)}),
    ],
)
def test_projected(tmp_path: Path, name: str, expected: dict[str, tuple[int, int, int, int]]) -> None:
    report, out = copied(name, tmp_path), tmp_path / "out.arrow"
    project_report(report, out, as_nsys=True)
    columns = ("duration_ns", "projected_start_ns", "projected_duration_ns", "gpu_ops")
    rows = read_table(out).to_pylist()
    assert {row["name"]: tuple(row[column] for column in columns) for row in rows} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.arrow", "report.sqlite"] or "2" in name


@pytest.mark.parametrize("name", ["report", "nocuda", "renamed", "view"])
def test_nothing_to_project(tmp_path: Path, name: str) -> None:
    report = copied(f"project-empty-silent/{name}.sqlite", tmp_path)
    with pytest.raises(Refused):
        project_report(report, tmp_path / "out.csv", as_nsys=True)
    assert [path.name for path in tmp_path.iterdir()] == [report.name]
