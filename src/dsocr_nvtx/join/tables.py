"""MEASURED: one row per hooked call with its costs and times."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.columns import Ints, Rows, coded, numbers, recoded
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.elsewhere import ELSEWHERE, rows_elsewhere
from dsocr_nvtx.join.ranges import Origin, Ranges
from dsocr_nvtx.join.ranks import Identities
from dsocr_nvtx.join.times import Elsewhere, Measured
from dsocr_nvtx.schema.payload import STATE_FLAGS
from dsocr_nvtx.schema.records import COST_FIELDS, DTYPE_BYTES, LayerKind, Level, Stage, is_host, module_of
from dsocr_nvtx.schema.tables import MEASURED, conform

_PLAIN = ("event_id", "step", "rows", "keys", "pairs")


def measured_table(every: Ranges, measured: Measured, observed_weights: pa.Array, who: Identities) -> pa.Table:
    """Return MEASURED in the order of the forest, in which ``observed_weights`` is already (`time_order`).

    Behind it come the rows of calls on other GPUs than their own.
    """
    nvtx, costs, ranges = every.nvtx, every.costs, every.forest
    order = ranges.rows
    parent = np.where(ranges.parent >= 0, costs.field("event_id")[order][ranges.parent], -1)
    start, end = numbers(nvtx, "start_ns")[order], numbers(nvtx, "end_ns")[order]
    inside = np.zeros(len(start), np.int64)
    have = np.flatnonzero(ranges.parent >= 0)
    np.add.at(inside, ranges.parent[have], (end - start)[have])
    device = measured.device
    columns: dict[str, object] = {
        **{name: costs.field(name)[order] for name in (*_PLAIN, *COST_FIELDS)},
        **_each(costs, order),
        **_labels(nvtx, costs, order),
        "observed_weight_bytes": observed_weights,
        "origin": recoded(every.origin[order], list(Origin)),
        "pid": numbers(nvtx, "pid")[order],
        "tid": numbers(nvtx, "tid")[order],
        "parent_id": pa.array(parent, mask=ranges.parent < 0),
        "start_ns": start,
        "end_ns": end,
        "device": pa.array(device.astype(np.int32), mask=device < 0),
        "host_ns": (end - start) - inside,
        **measured.times.columns,
        "inclusive_launches": ranges.upward(measured.everywhere("launches")),
        "inclusive_kernel_ns": ranges.upward(measured.everywhere("kernel_ns")),
        **who.columns(numbers(nvtx, "pid")[order], device),
    }
    table = conform({name: _without_room(values) for name, values in columns.items()}, MEASURED)
    if measured.elsewhere is None:
        return table
    return pa.concat_tables([table, _elsewhere(table, measured.elsewhere, who)]).unify_dictionaries()


def _elsewhere(table: pa.Table, found: Elsewhere, who: Identities) -> pa.Table:
    inclusive = {f"inclusive_{name}": getattr(found.times, name) for name in ("launches", "kernel_ns")}
    return rows_elsewhere(table, found.call, found.device, {**found.times.columns, **inclusive}, who)


def _without_room(column: object) -> object:
    """Return numbers that are all one value as such, which takes no room; any other column as it is."""
    if isinstance(column, np.ndarray) and len(column) and (column == column[0]).all():
        return np.broadcast_to(column.dtype.type(column[0]), column.shape)
    return column


def time_order(ranges: pa.Table) -> Rows:
    """Return what puts MEASURED in order of (process, thread, start), from that of the forest."""
    if not {str(Origin.REPLAYED), ELSEWHERE} & set(ranges["origin"].unique().to_pylist()):
        return slice(None)
    # Replays and calls elsewhere come last; each goes to its launch, or to its call.
    keys = [numbers(ranges, name) for name in ("start_ns", "tid", "pid")]
    return np.lexsort((np.arange(len(ranges)), *keys))


def _each(costs: RangeCosts, order: Rows) -> dict[str, Ints]:
    """Return what there is of each sequence: where they differ, the mean, rounded down."""
    sequences = costs.field("sequences")[order]
    rows, keys = (costs.field(name)[order] // np.maximum(sequences, 1) * (sequences > 0) for name in ("rows", "keys"))
    return {"batch": sequences, "tokens": rows, "kv_len": keys}


def _labels(nvtx: pa.Table, costs: RangeCosts, order: Rows) -> dict[str, object]:
    path, paths = coded(nvtx, "path")
    stage, stages = coded(nvtx, "stage")
    layer = costs.field("layer")[order]
    kind = _code(costs.field("kind"), LayerKind)[order]
    of_host = np.array([is_host(p) for p in paths], bool)[path[order]]
    kind[(kind < 0) & of_host] = list(LayerKind).index(LayerKind.HOST)  # its path alone says so
    flags = costs.field("flags")[order]
    return {
        "path": recoded(path[order], paths),
        "module": recoded(path[order], [module_of(p) for p in paths]),
        "stage": recoded(stage[order], stages),
        "kind": recoded(np.where(kind < 0, list(LayerKind).index(LayerKind.REST), kind), list(LayerKind)),
        "level": recoded(np.maximum(_code(costs.field("level"), Level), 0)[order], list(Level)),
        "cost_state": recoded(states(flags), list(STATE_FLAGS)),
        "layer": pa.array(layer.astype(np.int32), mask=layer < 0),
        "dtype": recoded(np.maximum(_code(costs.field("dtype"), DTYPE_BYTES), 0)[order], list(DTYPE_BYTES)),
    }


def states(flags: Ints) -> Ints:
    """Return the state that the flags say, as a position in `STATE_FLAGS`: of several, the last."""
    state = np.zeros(len(flags), np.int64)
    for place, flag in enumerate(STATE_FLAGS.values()):
        state[flags & int(flag) != 0] = place
    return state


def _code(values: Ints, members: type[LayerKind] | type[Level] | type[Stage] | dict[str, int]) -> Ints:
    """Return codes as they are where they name a member, else -1: a stranger's payload may hold any number."""
    return np.where((values >= 0) & (values < len(members)), values, -1)
