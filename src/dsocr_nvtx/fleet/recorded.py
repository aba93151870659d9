"""What the ranks' run directories know and their reports do not: pages done, clocks, throttling."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from attrs import frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import known, numbers
from dsocr_nvtx.schema.directories import run_table
from dsocr_nvtx.schema.ranks import rank_directory


@frozen(kw_only=True)
class RecordedRun:
    """What one rank's run directory says; None where it does not."""

    pages: int | None = None
    sm_clock_mhz: float | None = None
    throttle: str | None = None


def check_runs(directory: Path) -> None:
    """Refuse a directory that holds no rank's directory: known before any report is joined."""
    if not any(folder.is_dir() and folder.name[5:].isdecimal() for folder in directory.glob("rank-*")):
        raise _none(directory, "no rank's run directory (rank-0, rank-1, ...)")


def recorded_runs(directory: Path, ranks: Iterable[int]) -> dict[int, RecordedRun]:
    """Return rank -> what its directory under ``directory`` says; ranks without one are left out.

    Refused: a directory that holds none of the ranks' directories.
    """
    wanted = sorted(set(ranks))
    present = {rank: folder for rank in wanted if (folder := rank_directory(directory, rank)).is_dir()}
    if not present:
        named = ", ".join(map(str, wanted[:8])) + ", ..." * (len(wanted) > 8)
        raise _none(directory, f"no run directory of a rank that is in the reports ({named})")
    return {rank: _read(folder) for rank, folder in present.items()}


def _none(directory: Path, found: str) -> Refused:
    return Refused(directory, found, "give the directory that the ranks' runs were written into")


def _read(folder: Path) -> RecordedRun:
    pages, power = folder / "pages.arrow", folder / "power.arrow"
    done = clock = throttle = None
    if pages.is_file():
        done = sum(status == "done" for status in run_table(folder, "pages")["status"].to_pylist())
    if power.is_file():
        samples = run_table(folder, "power")
        clocks = numbers(samples, "sm_clock_mhz")[known(samples, "sm_clock_mhz")]
        clock = float(np.median(clocks)) if len(clocks) else None
        said = {reason for text in samples["throttle"].to_pylist() for reason in (text or "").split("+") if reason}
        throttle = "+".join(sorted(said))
    return RecordedRun(pages=done, sm_clock_mhz=clock, throttle=throttle)
