"""The ladder: from one eager capture, how fast a stage would be if its losses went away one after another.

Rungs, each on top of the one before: ``now``, as measured; ``no_stall``, the host always ahead, so that only a stream's
own gap lies between two operations; ``graph``, launches free, so that only the gap of a replayed graph does; ``fused``,
without tax kernels (`dsocr_nvtx.roofline.tax`); ``roof``, the least time of the work itself. Nothing is clipped: a rung
above the one before it says that its assumption brings nothing here. An interval spans gaps alone: kernels take their
times as measured.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import integer, known, numbers, rows_with
from dsocr_nvtx.roofline.tax import TAX_RULE, taxed
from dsocr_nvtx.schema.gauges import LADDER
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.tables import conform

RUNGS = ("now", "no_stall", "graph", "fused", "roof")

_LEAD_NS = 5_000
"""An operation counts as queued when its launch call was made this long before the operation ahead of it ended."""
_ENOUGH = 20
"""Operations that a gap is read from; fewer say nothing."""
_REPLAYED_NS = (300, 460)
"""Idle time after each of 817 operations in replays of a decode step on an H200, untraced and under a node-level trace
(reports/h200/decode_check.md); kernels that do nothing, which ceilings replays, overlap their ends and beginnings."""


@frozen(kw_only=True)
class Gap:
    """Idle time between two operations, in ns: smallest, likeliest and largest; where it was read, what spans them."""

    low: float
    likely: float
    high: float
    source: str
    interval: str


@frozen(kw_only=True)
class Gaps:
    """The gaps of a stream whose host is ahead, and of a replayed graph; None where nothing tells."""

    stream: Gap | None
    replay: Gap | None


def ladder(kernels: pa.Table, stages: pa.Table, launching: Mapping[str, str] | None = None) -> pa.Table:
    """Return LADDER of a join's KERNELS and STAGES tables; host work climbs none.

    ``launching`` is what `ceilings` measured of launching (`read_launching`); without it that of the tables' metadata;
    without that the stream's gap is read from the capture. A graph's gap is that of the capture's own replays; without
    them the measured one, but no less than replays show; without any half a stream's, as it lies between none and that.
    """
    about = {k.decode(): v.decode() for k, v in (stages.schema.metadata or {}).items()}
    gaps = find_gaps(kernels, {**about, **(launching or {})})
    tax = taxed(kernels)
    of_model = (stage for stage in stages.to_pylist() if stage["stage"] != Stage.HOST)
    rows = [row for stage in of_model for row in _rungs(stage, kernels, tax, gaps)]
    columns = {name: [row[name] for row in rows] for name in LADDER.names}
    kept = {key: about[key] for key in ("dsocr_nvtx", "device", "roofs", "report", "sha256", "level") if key in about}
    sources = {name: gap.source for name, gap in (("stream_gap", gaps.stream), ("replay_gap", gaps.replay)) if gap}
    return conform(columns, LADDER, {**kept, **sources, "tax": TAX_RULE})


_MOST = 1_000_000


def short_ladder(operations: int, kernels: Callable[[], pa.Table], stages: pa.Table) -> list[dict[str, object]]:
    """Return the rows of LADDER for a verdict in passing: none of so many operations that climbing takes a while."""
    return ladder(kernels(), stages).to_pylist() if operations <= _MOST else []


def find_gaps(kernels: pa.Table, launching: Mapping[str, str]) -> Gaps:
    """Return the gaps: as `ceilings` measured them and replays show them, else what queued work of the capture says."""
    stream, replay = queued_gap(kernels), replayed_gap(kernels)
    kernel, stream_period, replay_period = (
        float(launching[name]) if launching.get(name, "").isdigit() else None
        for name in ("shortest_kernel_ns", "stream_period_ns", "replay_period_ns")
    )
    if kernel is not None and stream_period is not None:
        stream = _measured(stream_period - kernel, "ceilings: a stream's shortest period less its kernel")
    if replay is None and kernel is not None and replay_period is not None:
        replay = _at_least_as_replays_show(
            _measured(replay_period - kernel, "ceilings: a replayed graph's period less its kernel")
        )
    if replay is None and stream is not None:
        replay = Gap(
            low=0.0, likely=stream.likely / 2, high=stream.likely,
            source=f"not measured: half a stream's, {stream.likely / 2:.0f} ns, as it lies between none and that "
            f"(replays of a decode step on an H200: {_REPLAYED_NS[0]} ns); dsocr-nvtx ceilings measures it",
            interval="no gap, and a stream's",
        )  # fmt: skip
    return Gaps(stream=stream, replay=replay)


def _measured(ns: float, source: str) -> Gap:
    gap = max(ns, 0.0)
    return Gap(
        low=gap * 0.8, likely=gap, high=gap * 1.2, source=source, interval="20 % less and more, which is assumed"
    )


def _at_least_as_replays_show(measured: Gap) -> Gap:
    shown, traced = _REPLAYED_NS
    if measured.likely >= shown:
        return measured
    return Gap(
        low=measured.likely, likely=shown, high=traced,
        source=f"replays of a decode step on an H200: {shown} ns, where kernels that do nothing leave "
        f"{measured.likely:.0f} ({measured.source})",
        interval="kernels that do nothing, and replays under a node-level trace",
    )  # fmt: skip


def replayed_gap(kernels: pa.Table) -> Gap | None:
    """Return the idle time between one operation of a replayed graph and the next of the same replay."""
    rows = np.flatnonzero(known(kernels, "graph_node_id") & known(kernels, "correlation_id"))
    pid, device, call, start, end = (
        numbers(kernels, name)[rows] for name in ("pid", "device", "correlation_id", "start_ns", "end_ns")
    )
    order = np.lexsort([start, call, device, pid])
    pid, device, call, start, end = (v[order] for v in (pid, device, call, start, end))
    together = (np.diff(pid) == 0) & (np.diff(device) == 0) & (np.diff(call) == 0)
    gap = (start[1:] - end[:-1])[together]
    gap = gap[gap >= 0]  # branches of a graph run side by side
    if len(gap) < _ENOUGH:
        return None
    low, likely, high = (float(value) for value in np.percentile(gap, [25, 50, 75]))
    text = f"median after {len(gap)} operations of replayed graphs in this capture, as traced"
    return Gap(low=low, likely=likely, high=high, source=text, interval=_QUARTILES)


_QUARTILES = "the quartiles"


def queued_gap(kernels: pa.Table) -> Gap | None:
    """Return the gap between operations of one stream of which the later was launched long before the earlier ended."""
    rows = np.flatnonzero(known(kernels, "launch_ns"))
    pid, device, stream, start, end, launch = (
        numbers(kernels, name)[rows] for name in ("pid", "device", "stream", "start_ns", "end_ns", "launch_ns")
    )
    order = np.lexsort([start, stream, device, pid])
    pid, device, stream, start, end, launch = (v[order] for v in (pid, device, stream, start, end, launch))
    together = (np.diff(pid) == 0) & (np.diff(device) == 0) & (np.diff(stream) == 0)
    gap = start[1:] - end[:-1]
    queued = together & (launch[1:] + _LEAD_NS <= end[:-1]) & (gap >= 0)
    if np.count_nonzero(queued) < _ENOUGH:
        return None
    low, likely, high = (float(value) for value in np.percentile(gap[queued], [25, 50, 75]))
    text = (
        f"median of {np.count_nonzero(queued)} operations of this capture that were queued {_LEAD_NS // 1000} us ahead"
    )
    return Gap(low=low, likely=likely, high=high, source=text, interval=_QUARTILES)


def _rungs(
    stage: Mapping[str, object], kernels: pa.Table, tax: npt.NDArray[np.bool_], gaps: Gaps
) -> Iterator[dict[str, object]]:
    mine = _of_stage(kernels, stage)
    fused = mine & tax
    busy = numbers(kernels, "busy_owned_ns")
    now, all_busy, floor = (integer(stage, name) for name in ("wall_ns", "busy_owned_ns", "roofline_ns"))
    count, left = int(np.count_nonzero(mine)), int(np.count_nonzero(mine & ~fused))
    useful = all_busy - int(busy[fused].sum())
    replayed = bool(count and np.count_nonzero(mine & known(kernels, "graph_node_id")) * 2 > count)
    for rung, work, operations, gap, text in (
        ("now", now, count, None, "as measured, under the profiler"),
        (
            "no_stall",
            all_busy,
            count,
            gaps.stream,
            "the host stays ahead; no waiting for results, allocations or plans",
        ),
        (
            "graph",
            all_busy,
            count,
            gaps.replay,
            "the same kernels, replayed as one CUDA graph; shapes and addresses fixed",
        ),
        ("fused", useful, left, gaps.replay, "the same, and tax kernels fused into their neighbours at no cost"),
        ("roof", floor, 0, None, "every call at the roof that binds it, nothing between calls"),
    ):
        if not (replayed and rung in ("no_stall", "graph")):  # it is a graph already
            yield _row(stage, rung, work, operations, gap, text, now)


def _row(
    stage: Mapping[str, object], rung: str, work: int, operations: int, gap: Gap | None, text: str, now: int
) -> dict[str, object]:
    times = [work + operations * (getattr(gap, name) if gap else 0.0) for name in ("low", "likely", "high")]
    unknown = gap is None and rung in ("no_stall", "graph", "fused")
    steps, tokens = (integer(stage, name) for name in ("steps", "tokens"))
    return {
        **{name: stage[name] for name in ("pid", "device", "stage", "steps", "tokens")},
        "rung": rung,
        "low_ns": times[0],
        "total_ns": times[1],
        "high_ns": times[2],
        "step_ns": times[1] / steps if steps else None,
        "token_ns": times[1] / tokens if tokens else None,
        "speedup": now / times[1] if times[1] else None,
        "operations": operations,
        "gap_ns": gap.likely if gap else None,
        "assumes": text + ("; no gaps, as none is known" if unknown else _spoken(gap) if gap else ""),
    }


def _spoken(gap: Gap) -> str:
    return f"; gap: {gap.source}; low and high: {gap.interval}"


def _of_stage(kernels: pa.Table, stage: Mapping[str, object]) -> npt.NDArray[np.bool_]:
    mine: npt.NDArray[np.bool_] = rows_with(kernels, "stage", str(stage["stage"]))
    mine &= numbers(kernels, "pid") == stage["pid"]
    if stage["device"] is not None:
        mine &= numbers(kernels, "device") == stage["device"]
    return mine
