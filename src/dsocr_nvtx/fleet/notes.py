"""What terminal and page say of a fleet alike: who a rank is, what is usual, and what to read with care."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from dsocr_nvtx.fleet.spread import SLOW
from dsocr_nvtx.join.columns import numbers

READ_WITH_CARE = "read more work and waiting with care"


def has_ranks(ranks: pa.Table) -> bool:
    """Say whether the reports of a FLEET_RANKS table tell ranks apart; all are 0 where nothing launched ranks."""
    return bool(numbers(ranks, "rank").any())


def rank_name(rank: int, report: str, host: str | None = None, *, named: bool) -> str:
    """Return who a rank is: by its number where the reports have such, else by its report alone."""
    if named:
        return f"rank {rank} ({', '.join(filter(None, (report, host)))})"
    return f"{report} ({host})" if host else report


def slowness(row: Mapping[str, Any]) -> str:
    """Return how long a slow row of a FLEET_RANKS table takes, or its GPU is busy, beside what is usual."""
    more = f"{beyond_ns(row) / 1e6:,.2f} ms more"
    if row["slowdown"] is None:
        return f"takes {row['wall_ns'] / 1e6:,.2f} ms, and usual is none"
    if _is_slow(row):
        return f"takes {row['slowdown']:.2f} times the usual time, {more}"
    times = f"{row['busy_slowdown']:.2f} times" if row["busy_slowdown"] is not None else "longer than"
    return f"is busy {times} the usual, {more}, in {row['slowdown']:.2f} times the usual wall time"


def _is_slow(row: Mapping[str, Any]) -> bool:
    return bool(row["wall_ns"] > SLOW * row["usual_wall_ns"])


def beyond_ns(row: Mapping[str, Any]) -> int:
    """Return how much longer than usual a slow row takes; where it is slow by busy time alone, is busy."""
    return int(row["wall_ns"] - row["usual_wall_ns"]) if _is_slow(row) else int(row["device_ns"])


def usual_times(ranks: pa.Table) -> dict[str, int]:
    """Return, by stage of a FLEET_RANKS table, the usual wall time in ns: median busy and median idle time."""
    return dict(zip(ranks["stage"].to_pylist(), ranks["usual_wall_ns"].to_pylist(), strict=True))


def cautions(ranks: pa.Table, levels: Iterable[str]) -> list[str]:
    """Return a line for each way in which the ranks of a FLEET_RANKS table did not do, or record, the same."""
    decode = [row for row in ranks.to_pylist() if row["stage"] == "decode"]
    steps = [row["steps"] for row in decode]
    batches = [round(row["tokens"] / row["steps"], 2) for row in decode if row["steps"]]
    lines = []
    if len(set(steps)) > 1:
        lines.append(f"decode steps differ, {min(steps):,} to {max(steps):,} a rank: {READ_WITH_CARE}")
    if len(set(batches)) > 1:
        lines.append(f"decode batches differ, {min(batches):g} to {max(batches):g} tokens a step: {READ_WITH_CARE}")
    known = sorted({level for level in levels if level})
    if len(known) > 1:
        lines.append(f"levels differ, {' and '.join(known)}: hooks slow host code unequally; {READ_WITH_CARE}")
    return lines


def by_slowdown(ranks: pa.Table) -> list[Mapping[str, Any]]:
    """Return the rows of a FLEET_RANKS table that are slow, those that lose most first."""
    slow = [row for row in ranks.to_pylist() if row["cause"] != "none"]
    return sorted(slow, key=lambda row: -beyond_ns(row))
