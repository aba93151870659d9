"""A fleet's own files: damage is seen, what changed is joined again, and nothing of others is lost."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.fleet.engine import Fleet, FleetOptions, join_fleet, plan_fleet
from dsocr_nvtx.fleet.inputs import inputs_of
from dsocr_nvtx.fleet.state import Folders
from dsocr_nvtx.schema.joins import Part
from tests.fleet.reports import write_report
from tests.fleet.test_fleet_join import one_thread


def reports(folder: Path, ranks: range = range(2)) -> Path:
    folder.mkdir()
    for rank in ranks:
        write_report(folder / f"rank-{rank}.sqlite", rank, steps=2 + rank)
    return folder


def join(folder: Path, out: Path, *, force: bool = False) -> Fleet:
    options = FleetOptions(force=force)
    return join_fleet(plan_fleet(inputs_of([folder / "*.sqlite"]), out, options), one_thread, options)


def told(found: Fleet) -> list[object]:
    return [table.to_pylist() for table in (found.roofline, found.stages, found.ranks)]


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_no_bit_of_a_fleet_changes_what_it_says(tmp_path: Path) -> None:
    folder = reports(tmp_path / "reports")
    first = told(join(folder, tmp_path / "out"))
    random = np.random.default_rng(7)
    for name, whole in files(tmp_path / "out").items():
        for place in random.integers(0, 8 * len(whole), 3).tolist():
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            (tmp_path / "out" / name).write_bytes(flipped)
            assert told(join(folder, tmp_path / "out")) == first, (name, place)


def test_a_damaged_part_is_joined_again_or_refused_by_name(tmp_path: Path) -> None:
    folder, out = reports(tmp_path / "reports"), tmp_path / "out"
    join(folder, out)
    part = Folders(out).part("stages", "rank-1")
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(Refused, match=r"report=rank-1/part\.parquet: damaged"):
        Part(out, "rank-1").read("stages")
    assert join(folder, out).joined == 1


def test_a_report_that_changed_under_its_old_time_and_size_is_joined_again(tmp_path: Path) -> None:
    folder, out = reports(tmp_path / "reports"), tmp_path / "out"
    join(folder, out)
    path = folder / "rank-0.sqlite"
    before = path.stat()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET end = end + 1")
    connection.close()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert join(folder, out).joined == 1


def test_other_reports_tables_are_replaced_only_when_told(tmp_path: Path) -> None:
    one, two, out = reports(tmp_path / "one"), reports(tmp_path / "two", range(1, 3)), tmp_path / "out"
    join(one, out)
    before = files(out)
    with pytest.raises(Refused, match="a fleet of other reports, rank-0 among them, without rank-2"):
        join(two, out)
    (two / "rank-2.sqlite").unlink()
    write_report(two / "rank-1.sqlite", 1, steps=9)
    write_report(two / "rank-0.sqlite", 0, steps=9)
    with pytest.raises(Refused, match=r"a fleet whose report rank-0 is .*one/rank-0\.sqlite, not"):
        join(two, out)
    assert files(out) == before
    assert join(two, out, force=True).joined == 2


def test_reports_that_were_moved_are_the_same(tmp_path: Path) -> None:
    folder, out = reports(tmp_path / "reports"), tmp_path / "out"
    join(folder, out)
    moved = folder.rename(tmp_path / "moved")
    found = join(moved, out)
    assert (found.joined, {Path(state.path).parent for state in found.states.values()}) == (0, {moved})


@pytest.mark.parametrize("ours", ["rank-pages", "state", "kernels", "roofline/report=rank-0", "accounting"])
def test_a_link_inside_is_refused_and_what_it_leads_to_stays(tmp_path: Path, ours: str) -> None:
    folder, out, victim = reports(tmp_path / "reports"), tmp_path / "out", tmp_path / "victim"
    join(folder, out)
    victim.mkdir()
    for name in ("index.html", "part.parquet", "rank-0.json"):
        (victim / name).write_text("mine")
    if (out / ours).exists():
        (out / ours).rename(tmp_path / "aside")
    (out / ours).symlink_to(victim)
    write_report(folder / "rank-5.sqlite", 5)
    with pytest.raises(Refused, match="a link inside a fleet's directory"):
        join(folder, out, force=True)
    assert {path.read_text() for path in victim.iterdir()} == {"mine"}
