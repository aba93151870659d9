"""Roofline rows: disjoint, one per (process, device, stage, module, kind, layer), and their sums per stage.

A row's least time is the sum over its calls of the call's own (`dsocr_nvtx.roofline.least`).
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import asdict, frozen

from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers, recoded, rows_with
from dsocr_nvtx.join.elsewhere import ELSEWHERE
from dsocr_nvtx.join.events import called, check_events
from dsocr_nvtx.join.kernels import Kernels
from dsocr_nvtx.roofline.bounds import BOUNDS, ROOF_BOUNDS, THRESHOLD, firm_bound_of
from dsocr_nvtx.roofline.certainty import certain_enough, doubts, judged, modelled, uncertain_calls, unjudged
from dsocr_nvtx.roofline.least import MOVED, Floats, LeastTimes, least_times
from dsocr_nvtx.roofline.operations import CallOperations, small_rule
from dsocr_nvtx.roofline.own import certain_costs, experts_source, of_origin, own_costs
from dsocr_nvtx.schema.hardware import DATASHEET, Ceilings, at_highest_clock
from dsocr_nvtx.schema.records import COST_FIELDS, Level, Stage
from dsocr_nvtx.schema.tables import ROOFLINE, STAGES, conform

Numbers = npt.NDArray[np.integer[Any] | np.floating[Any]]

_TIMES = (
    "launches", "kernel_ns", "busy_owned_ns", "idle_owned_ns", "idle_launch_ns", "idle_sync_ns",
    "idle_memory_ns", "idle_host_ns", "idle_queued_ns", "wall_ns", "host_ns",
)  # fmt: skip


@frozen(eq=False)
class Roofline:
    """The two tables that people look at, and the roofs behind them."""

    rows: pa.Table
    stages: pa.Table
    roofs: Ceilings
    level: str

    @property
    def other_gpu(self) -> str:
        """Say so where the roofs are another GPU's than the report's, which is for the user to want; else nothing."""
        if not self.roofs.is_known:
            return ""
        told = (self.rows.schema.metadata or {}).get(b"device", b"").decode()
        others = sorted({name for name in told.split(", ") if name} - {self.roofs.device})
        if not others:
            return ""
        named = f"roofs are of {self.roofs.device}, the report is of {', '.join(others)}"
        return f"{named}: efficiencies and bounds mix both"


def roofline(
    kernels: pa.Table | Kernels, ranges: pa.Table, roofs: Ceilings, provenance: Mapping[str, str] | None = None,
    rank: int | None = None,
    where: str = "report", sm_count: int = 0,
) -> Roofline:  # fmt: skip
    """Return ROOFLINE and STAGES of KERNELS and MEASURED tables, with the roofs and thresholds in their metadata.

    KERNELS may be yet to be made. ``where`` names the report in refusals. Rows are of the ranks that the ranges tell,
    or of ``rank``. ``sm_count`` is that of the device, 0 where it is not known.
    """
    check_events(ranges, where)
    own, certain = own_costs(ranges), ~np.logical_or.reduce(list(uncertain_calls(ranges).values()))
    sure = own if certain.all() else {name: values * certain for name, values in own.items()}
    dtypes = coded(ranges, "dtype")
    ran = ~of_origin(ranges, "captured")
    shortest = least_times(certain_costs(ranges, sure), dtypes, at_highest_clock(roofs)).roofline * ran
    counted = ran & called(ranges) & ~of_origin(ranges, ELSEWHERE)
    operations = CallOperations.of(kernels, ranges, sm_count)
    calls = _Calls(ranges, counted, own, sure, least_times(sure, dtypes, roofs), shortest, operations, rank)
    level = _finest(ranges)
    about = {
        **(provenance or {}),
        "level": level,
        "roofs": f"{roofs.device}: {roofs.source}",
        "ceilings": json.dumps(asdict(roofs)),
        "bound_threshold": str(THRESHOLD),
        "small_kernel": small_rule(sm_count),
        "experts": experts_source(ranges),
    }
    keys = ["pid", "device", "stage", "module", "kind", "layer"]
    sums = _sums(calls, keys)
    rows = conform(sums if roofs.is_known else unjudged(sums), ROOFLINE, about)
    about["above_roof"] = str(sum(value is True for value in rows["above_roof"].to_pylist()))
    rows = rows.replace_schema_metadata(rows.schema.metadata | {b"above_roof": about["above_roof"].encode()})
    staged = _sums(calls, keys[:3])
    enough = certain_enough(*(np.asarray(staged[name]) for name in ("uncertain_ns", "busy_owned_ns")))
    staged |= judged(_stage_columns(ranges, sure, keys[:3], roofs), enough, modelled(staged))
    staged = staged if roofs.is_known else unjudged(staged)
    stages = conform(staged, STAGES, about | {"peak_source": _nominal(roofs).source})
    return Roofline(rows.sort_by([("lost_ns", "descending")]), _in_order(stages), roofs, level)


def _finest(ranges: pa.Table) -> str:
    present = set(ranges["level"].unique().to_pylist())
    return max(present, key=list(Level).index) if present else str(Level.STAGE)


def _in_order(stages: pa.Table) -> pa.Table:
    order = [list(Stage).index(Stage(stage)) for stage in stages["stage"].to_pylist()]
    return stages.take(np.argsort(np.array(order, np.int64), kind="stable"))


def _key(ranges: pa.Table, name: str) -> tuple[Ints, list[str] | None]:
    if pa.types.is_dictionary(ranges.schema.field(name).type):
        return coded(ranges, name)
    return np.where(known(ranges, name), numbers(ranges, name), -1), None


@frozen(eq=False)
class _Calls:
    """Every hooked call's own costs and least times, and the operations of calls.

    ``sure`` are own costs, zeros where those are not known or contradicted, and what ``least`` times are of.
    ``shortest`` is the least time of what is certain of a cost, at the highest clock; ``counted``: calls that ran.
    """

    ranges: pa.Table
    counted: npt.NDArray[np.bool_]
    own: Mapping[str, Ints]
    sure: Mapping[str, Ints]
    least: LeastTimes
    shortest: Floats
    operations: CallOperations
    rank: int | None


def _sums(calls: _Calls, keys: list[str]) -> dict[str, object]:
    ranges = calls.ranges
    columns = {name: _key(ranges, name) for name in keys}
    group, first = groups(*(values for values, _ in columns.values()))
    count = len(first)
    labels: dict[str, object] = {
        name: recoded(values[first], words) if words is not None else pa.array(values[first], mask=values[first] < 0)
        for name, (values, words) in columns.items()
    }
    cost, sure = ({n: _total(group, one[n], count) for n in COST_FIELDS} for one in (calls.own, calls.sure))
    time = {name: _total(group, numbers(ranges, name), count) for name in _TIMES}
    time |= calls.operations.times(group, count)
    at = {name: _float_total(group, times, count) for name, times in calls.least.at_roofs().items()}
    unsure = doubts(ranges, group, count)
    rates = _rates(sure, time, at, unsure["uncertain_ns"])
    rates |= {"above_roof": _contradicts(time, _float_total(group, calls.shortest, count))}
    return {
        **_whose(ranges, first, calls.rank),
        **labels,
        "calls": np.bincount(group[calls.counted], minlength=count),
        **cost,
        **time,
        **unsure,
        **judged(rates, certain_enough(unsure["uncertain_ns"], time["busy_owned_ns"]), modelled(labels)),
        "throttle": [None] * count,
    }


def _whose(ranges: pa.Table, first: Ints, rank: int | None) -> dict[str, object]:
    """Return rank and GPU of groups of ranges, of which ``first`` are members; older tables tell neither."""
    names = ranges.column_names
    ranks = numbers(ranges, "rank")[first] if rank is None and "rank" in names else np.full(len(first), rank or 0)
    gpus = ranges["gpu_uuid"].take(pa.array(first)) if "gpu_uuid" in names else pa.nulls(len(first), pa.string())
    return {"rank": ranks.astype(np.int32), "gpu_uuid": gpus.cast(pa.string()).combine_chunks().dictionary_encode()}


def _contradicts(time: Mapping[str, Ints], shortest: Floats) -> pa.Array:
    """Return which rows took less time than is possible; null where they took none.

    Their time is the union of their operations: of operations that run side by side, owned time is only a part.
    """
    busy = np.maximum(time["busy_ns"], time["busy_owned_ns"])
    return pa.array(shortest > busy, mask=busy == 0)


def _total(group: Ints, values: Ints, count: int) -> Ints:
    total = np.zeros(count, np.int64)
    np.add.at(total, group, values)
    return total


def _float_total(group: Ints, values: Floats, count: int) -> Floats:
    return np.bincount(group, values, count).astype(np.float64)


def _rates(
    cost: Mapping[str, Ints], time: Mapping[str, Ints], at: Mapping[str, Floats], uncertain: Ints
) -> dict[str, object]:
    busy = time["busy_owned_ns"]
    moved = np.sum([cost[name] for name in MOVED], axis=0)
    least = np.sum([at[name] for name in ROOF_BOUNDS], axis=0)
    floor = np.rint(least).astype(np.int64)
    return {
        "achieved_tflops": ratio(cost["tensor_flops"], busy * 1e3),
        "achieved_gbps": ratio(moved, busy),
        "intensity": ratio(cost["tensor_flops"] + cost["vector_flops"], moved),
        "roofline_ns": floor,
        "efficiency": ratio(least, busy),
        "bound": recoded(firm_bound_of(time, at, uncertain), BOUNDS),
        "lost_ns": time["wall_ns"] - floor,
    }


def ratio(part: Numbers, whole: Numbers) -> pa.Array:
    """Return part / whole, null where the whole is zero."""
    return pa.array(part / np.where(whole > 0, whole, 1), mask=np.asarray(whole <= 0))


def _nominal(roofs: Ceilings) -> Ceilings:
    """Return the datasheet entry that MFU and MBU are stated against; measured roofs only where there is none."""
    return DATASHEET.get(roofs.device, roofs)


def _stage_columns(ranges: pa.Table, own: Mapping[str, Ints], keys: list[str], roofs: Ceilings) -> dict[str, object]:
    group, first = groups(*(_key(ranges, name)[0] for name in keys))
    count, nominal = len(first), _nominal(roofs)
    codes, words = coded(ranges, "dtype")
    peak = np.array([nominal.tensor_peak(word) or 0 for word in words], np.float64)[codes]
    wall = _total(group, numbers(ranges, "wall_ns"), count) / 1e9
    matrix_seconds = np.divide(own["tensor_flops"], peak, where=peak > 0, out=np.zeros(len(peak)))
    traffic = own["weight_bytes"] + own["kv_read_bytes"] + own["kv_write_bytes"]
    each, one = groups(group, numbers(ranges, "step"))
    steps = _total(each, numbers(ranges, "wall_ns"), len(one))
    return {
        "median_step_ns": [round(np.median(steps[group[one] == stage])) for stage in range(count)],
        "dilation": [None] * count,
        "steps": np.bincount(group[one], minlength=count),
        "tokens": _total(group, tokens_of(ranges), count),
        "mfu": ratio(_float_total(group, matrix_seconds, count), wall),
        "mbu": ratio(_total(group, traffic, count), wall * float(nominal.bandwidth)),
    }


def tokens_of(ranges: pa.Table) -> Ints:
    """Return the tokens a range stands for in its stage's total: those of the model or image-feature call.

    Where a stage has no such call (the vendor's vision runs inside prefill), the projector's rows are its tokens.
    """
    told = "rows" in ranges.column_names  # tables of an earlier version have it as a product alone
    rows = numbers(ranges, "rows") if told else numbers(ranges, "batch") * numbers(ranges, "tokens")
    stage, _ = coded(ranges, "stage")
    whole = ~of_origin(ranges, "captured") & rows_with(ranges, "path", "model", "image_features")
    has_whole = np.isin(stage, stage[whole])
    return np.where(whole | (rows_with(ranges, "path", "projector") & ~has_whole), rows, 0)
