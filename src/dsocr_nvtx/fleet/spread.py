"""Every rank beside the others, stage by stage: how much slower than usual, and by what.

A rank's wall time is its busy time and its idle time. What is usual is the median over the ranks, of busy time, idle
time, least (roofline) time and steps. More work than usual explains busy time in proportion to the least time of the
rank's work, and idle time in proportion to its steps; busy time beyond that is the device's, idle time beyond that is
waiting. The three parts add up to the difference, to the nanosecond.

A rank is slow by its wall time, or by its busy time where its work does not explain that: a GPU with lower clocks in
a run that waits for the host takes no longer, and shows in its busy time alone.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.fleet.merge import added, units_of
from dsocr_nvtx.fleet.recorded import RecordedRun
from dsocr_nvtx.join.columns import Ints, coded, groups, numbers, recoded
from dsocr_nvtx.roofline.points import ratio
from dsocr_nvtx.schema.fleet import FLEET_RANKS
from dsocr_nvtx.schema.ranks import Rank
from dsocr_nvtx.schema.tables import conform

SLOW = 1.05
"""A rank is slow in a stage where it takes, or its GPU is busy for, so many times what is usual."""

CAUSES = ("none", "work", "device", "waiting")
_RULES = {
    "none": f"at most {SLOW} times the usual wall time, and the usual busy time of its work",
    "work": "most of what is beyond the usual time is in proportion to its least time and its steps",
    "device": "most of what is beyond the usual time, or the busy time alone, is busy time beyond that of its work",
    "waiting": "most of what is beyond the usual time is idle time that its steps do not explain",
}
_FARTHEST = float(1 << 61)
"""No time of a report is longer; a damaged step count could make one that does not fit."""

_TIMES = ("steps", "tokens", "launches", "wall_ns", "busy_owned_ns", "idle_owned_ns", "roofline_ns")


def fleet_ranks(
    stages: pa.Table,
    told: Mapping[tuple[str, int], Rank],
    recorded: Mapping[tuple[str, int], RecordedRun],
    about: Mapping[str, str],
) -> pa.Table:
    """Return FLEET_RANKS of the STAGES rows of all reports (with a column ``report``), slowest rank first in a stage.

    ``told`` and ``recorded`` are keyed by (report, process id).
    """
    unit, member = units_of(stages)
    stage, words = coded(stages, "stage")
    pair, first = groups(stage, unit)
    time = {name: added(pair, numbers(stages, name), len(first)) for name in _TIMES}
    of = stage[first]
    parts = _parts(time, of)
    report, names = coded(stages, "report")
    row = member[unit[first]]
    keys = list(zip((names[code] for code in report[row]), numbers(stages, "pid")[row].tolist(), strict=True))
    usual_busy = time["busy_owned_ns"] - parts.device
    busier = np.where(time["busy_owned_ns"] > SLOW * usual_busy, CAUSES.index("device"), 0)
    cause = np.where(time["wall_ns"] > SLOW * parts.usual, 1 + np.argmax(parts.stacked(), axis=0), busier)
    columns: dict[str, object] = {
        "report": recoded(report[row], names),
        "stage": recoded(of, words),
        "pid": numbers(stages, "pid")[row],
        "rank": numbers(stages, "rank")[row].astype(np.int32),
        "gpu_uuid": stages["gpu_uuid"].take(pa.array(row)),
        **_told([told.get(key) for key in keys]),
        **_recorded([recorded.get(key) for key in keys]),
        **time,
        "usual_wall_ns": parts.usual,
        "slowdown": ratio(time["wall_ns"], parts.usual),
        "usual_busy_ns": usual_busy,
        "busy_slowdown": ratio(time["busy_owned_ns"], usual_busy),
        "work_ns": parts.work,
        "device_ns": parts.device,
        "waiting_ns": parts.waiting,
        "cause": recoded(cause, list(CAUSES)),
        "rule": _rules(cause, [recorded.get(key) for key in keys]),
    }
    table = conform(columns, FLEET_RANKS, {**about, "slow": str(SLOW)})
    return table.take(pa.array(np.lexsort((-time["wall_ns"], of))))


def slowest_causes(ranks: pa.Table) -> dict[str, str]:
    """Return, by stage, the cause of its slowest rank in a FLEET_RANKS table."""
    found: dict[str, str] = {}
    for stage, cause in zip(ranks["stage"].to_pylist(), ranks["cause"].to_pylist(), strict=True):
        found.setdefault(stage, cause)
    return found


def _rules(cause: Ints, runs: Sequence[RecordedRun | None]) -> list[str]:
    """Return what decided each cause; of a slow device also how its clock lies to the others', where it is known."""
    clocks = [run.sm_clock_mhz if run is not None else None for run in runs]
    usual = median([clock for clock in clocks if clock is not None] or [0.0])
    found = []
    for code, clock in zip(cause.tolist(), clocks, strict=True):
        text = _RULES[CAUSES[code]]
        if CAUSES[code] == "device":
            known = f"its SM clock is {clock / usual:.0%} of the median" if clock is not None and usual else ""
            text += f"; {known or 'clocks were not recorded'}"
        found.append(text)
    return found


@frozen(eq=False)
class _Parts:
    usual: Ints
    work: Ints
    device: Ints
    waiting: Ints

    def stacked(self) -> Ints:
        return np.stack([self.work, self.device, self.waiting])


def _parts(time: Mapping[str, Ints], stage: Ints) -> _Parts:
    names = ("busy_owned_ns", "idle_owned_ns", "roofline_ns", "steps")
    busy, idle, least, steps = (_median(time[name], stage) for name in names)
    device = time["busy_owned_ns"] - _in_proportion(busy, time["roofline_ns"], least)
    waiting = time["idle_owned_ns"] - _in_proportion(idle, time["steps"], steps)
    usual = busy + idle
    return _Parts(usual, time["wall_ns"] - usual - device - waiting, device, waiting)


def _in_proportion(usual: Ints, mine: Ints, common: Ints) -> Ints:
    """Return the usual time in proportion to the work; as it is where there is no measure of work."""
    share = np.where(common > 0, mine / np.maximum(common, 1), 1.0)
    return np.rint(np.minimum(usual * share, _FARTHEST)).astype(np.int64)


def _median(values: Ints, group: Ints) -> Ints:
    """Return, per row, the lower median of its group."""
    order = np.lexsort((values, group))
    begin, end = (np.searchsorted(group[order], group, side=side) for side in ("left", "right"))
    found: Ints = values[order[(begin + end - 1) // 2]]
    return found


def _told(ranks: Sequence[Rank | None]) -> dict[str, object]:
    return {
        "world_size": [rank.world_size if rank is not None else None for rank in ranks],
        "host": [rank.host if rank is not None else None for rank in ranks],
    }


def _recorded(runs: Sequence[RecordedRun | None]) -> dict[str, object]:
    names = ("pages", "sm_clock_mhz", "throttle")
    return {name: [getattr(run, name) if run is not None else None for run in runs] for name in names}
