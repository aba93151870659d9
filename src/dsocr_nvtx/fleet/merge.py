"""The rows of many reports added up over their ranks, and how far the ranks lie apart in each."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers, recoded
from dsocr_nvtx.roofline.certainty import certain_enough
from dsocr_nvtx.roofline.least import MOVED
from dsocr_nvtx.roofline.points import ratio
from dsocr_nvtx.schema.fleet import MERGED_ROOFLINE, MERGED_STAGES
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.tables import conform

ROW_KEYS = ("stage", "module", "kind", "layer")
STAGE_KEYS = ("stage",)


def merged_roofline(rows: pa.Table, about: Mapping[str, str]) -> pa.Table:
    """Return MERGED_ROOFLINE of the ROOFLINE rows of all reports (with a column ``report``), most lost time first."""
    table = conform(_merged(rows, ROW_KEYS, MERGED_ROOFLINE), MERGED_ROOFLINE, about)
    return table.sort_by([("lost_ns", "descending")])


def merged_stages(rows: pa.Table, causes: Mapping[str, str], about: Mapping[str, str]) -> pa.Table:
    """Return MERGED_STAGES of the STAGES rows of all reports, in the order of the stages.

    ``causes`` says, by stage, why its slowest rank is slow.
    """
    columns = _merged(rows, STAGE_KEYS, MERGED_STAGES)
    group, count, first = _grouped(rows, STAGE_KEYS)
    columns["slowest_cause"] = [causes[stage] for stage in rows["stage"].take(pa.array(first)).to_pylist()]
    wall = numbers(rows, "wall_ns")
    for name in ("mfu", "mbu"):
        columns[name] = _weighted(group, count, rows[name], wall)
    table = conform(columns, MERGED_STAGES, about)
    order = {str(stage): at for at, stage in enumerate(Stage)}
    return table.take(pa.array(np.argsort([order[stage] for stage in table["stage"].to_pylist()], kind="stable")))


def units_of(rows: pa.Table) -> tuple[Ints, Ints]:
    """Return (number of the rank per row, one row per rank): a rank is a process of a report."""
    return groups(coded(rows, "report")[0], numbers(rows, "pid"))


def _grouped(rows: pa.Table, keys: Sequence[str]) -> tuple[Ints, int, Ints]:
    found = [coded(rows, k)[0] if k != "layer" else np.where(known(rows, k), numbers(rows, k), -1) for k in keys]
    group, first = groups(*found)
    return group, len(first), first


def _merged(rows: pa.Table, keys: Sequence[str], schema: pa.Schema) -> dict[str, object]:
    group, count, first = _grouped(rows, keys)
    columns: dict[str, object] = {key: rows[key].take(pa.array(first)) for key in keys}
    whole = [item.name for item in schema if pa.types.is_int64(item.type) and item.name != "above_roof"]
    sums = {name: added(group, numbers(rows, name), count) for name in whole if name in rows.column_names}
    busy, moved = sums["busy_owned_ns"], np.sum([sums[name] for name in MOVED], axis=0)
    certain = certain_enough(sums["uncertain_ns"], busy) & (sums["contradicted_calls"] == 0)
    above = np.array([value is True for value in rows["above_roof"].to_pylist()], np.int64)
    columns |= {
        **sums,
        "achieved_tflops": ratio(sums["tensor_flops"], busy * 1e3 * certain),
        "achieved_gbps": ratio(moved, busy * certain),
        "intensity": ratio(sums["tensor_flops"] + sums["vector_flops"], moved * certain),
        "efficiency": ratio(sums["roofline_ns"], busy * certain),
        "bound": _usual_bound(rows, group, count),
        "above_roof": added(group, above, count),
        **_spread(rows, group, count),
    }
    return columns


def added(group: Ints, values: Ints, count: int) -> Ints:
    """Return the sum of each group, in whole numbers."""
    total = np.zeros(count, np.int64)
    np.add.at(total, group, values)
    return total


def _usual_bound(rows: pa.Table, group: Ints, count: int) -> pa.Array:
    """Return the bound that holds over most of the ranks' wall time; null where no rank has one."""
    bounds = rows["bound"].cast(pa.string()).fill_null("").dictionary_encode()
    codes, words = coded(pa.table({"bound": bounds}), "bound")
    told, wall = known(rows, "bound"), numbers(rows, "wall_ns")
    share = np.zeros((count, len(words) + 1), np.int64)
    np.add.at(share.reshape(-1), group[told] * (len(words) + 1) + codes[told], wall[told])
    return recoded(np.where(share.sum(axis=1) > 0, share.argmax(axis=1), -1), [*words, ""])


def _spread(rows: pa.Table, group: Ints, count: int) -> dict[str, object]:
    unit, member = units_of(rows)
    pair, first = groups(group, unit)  # a rank may have several rows in a group: devices
    wall = added(pair, numbers(rows, "wall_ns"), len(first))
    of, units = group[first], unit[first]
    order = np.lexsort((units, wall, of))
    last = np.searchsorted(of[order], np.arange(count), side="right") - 1
    begin = np.searchsorted(of[order], np.arange(count), side="left")
    slowest, middle = order[last], order[(begin + last) // 2]
    walls = wall[slowest]
    total, ranks = added(of, wall, count), last - begin + 1
    row = member[units[slowest]]
    report, names = coded(rows, "report")
    reports = groups(group, report)[1]
    return {
        "reports": np.bincount(group[reports], minlength=count),
        "ranks": ranks,
        "slowest_report": recoded(report[row], names),
        "slowest_rank": numbers(rows, "rank")[row].astype(np.int32),
        "slowest_wall_ns": walls,
        "median_wall_ns": wall[middle],
        "fastest_wall_ns": wall[order[begin]],
        "behind_ns": walls - wall[middle],
        "imbalance": ratio(walls * ranks, total),
    }


def _weighted(group: Ints, count: int, values: pa.ChunkedArray, weight: Ints) -> pa.Array:
    """Return the mean of each group by weight; null where none is known."""
    have = values.is_valid().combine_chunks().to_numpy(zero_copy_only=False)
    filled = np.asarray(values.fill_null(0.0).combine_chunks().to_numpy(zero_copy_only=False), np.float64)
    weights = np.where(have, weight, 0)
    return ratio(np.bincount(group, filled * weights, count), np.bincount(group, weights, count))
