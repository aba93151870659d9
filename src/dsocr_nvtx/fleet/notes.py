"""What terminal and page say of a fleet alike: who a rank is, what is usual, and what to read with care."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

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
    """Return how long a slow row of a FLEET_RANKS table takes, beside what is usual."""
    if row["slowdown"] is None:
        return f"{row['wall_ns'] / 1e6:,.2f} ms, and usual is none"
    return f"{row['slowdown']:.2f} times the usual time"


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
    return sorted(slow, key=lambda row: row["usual_wall_ns"] - row["wall_ns"])
