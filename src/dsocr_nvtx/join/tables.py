"""MEASURED: one row per hooked call with its costs and times."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.attribution import Attribution
from dsocr_nvtx.join.columns import Ints, Places, Rows, coded, groups, numbers, recoded
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.measure import Measured
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ranks import Identities
from dsocr_nvtx.join.replays import Origin, Ranges
from dsocr_nvtx.schema.records import COST_FIELDS, DTYPE_BYTES, LayerKind, Level, Stage, module_of
from dsocr_nvtx.schema.tables import MEASURED, conform

_PLAIN = ("event_id", "step", "batch", "tokens", "kv_len")


def measured_table(
    every: Ranges, operations: pa.Table, found: Attribution, measured: Measured, observed_weights: pa.Array,
    who: Identities,
) -> pa.Table:  # fmt: skip
    """Return MEASURED in the order of the forest, in which ``observed_weights`` is already (`time_order`)."""
    nvtx, costs, ranges = every.nvtx, every.costs, every.forest
    order = ranges.rows
    parent = np.where(ranges.parent >= 0, costs.field("event_id")[order][ranges.parent], -1)
    start, end = numbers(nvtx, "start_ns")[order], numbers(nvtx, "end_ns")[order]
    inside = np.zeros(len(start), np.int64)
    have = np.flatnonzero(ranges.parent >= 0)
    np.add.at(inside, ranges.parent[have], (end - start)[have])
    idle = {f"idle_{cause}_ns": values for cause, values in measured.idle_ns.items()}
    idle_owned = sum(idle.values(), np.zeros(len(start), np.int64))
    device = _devices(nvtx, operations, found, measured, ranges)
    columns: dict[str, object] = {
        **{name: costs.field(name)[order] for name in (*_PLAIN, *COST_FIELDS, "own_activation_bytes")},
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
        "launches": measured.launches,
        "kernel_ns": measured.kernel_ns,
        "busy_ns": measured.busy_ns,
        "busy_owned_ns": measured.busy_owned_ns,
        "idle_owned_ns": idle_owned,
        **idle,
        "wall_ns": measured.busy_owned_ns + idle_owned,
        "inclusive_launches": ranges.upward(measured.launches),
        "inclusive_kernel_ns": ranges.upward(measured.kernel_ns),
        **who.columns(numbers(nvtx, "pid")[order], device),
    }
    return conform({name: _without_room(values) for name, values in columns.items()}, MEASURED)


def _without_room(column: object) -> object:
    """Return numbers that are all one value as such, which takes no room; any other column as it is."""
    if isinstance(column, np.ndarray) and len(column) and (column == column[0]).all():
        return np.broadcast_to(column.dtype.type(column[0]), column.shape)
    return column


def time_order(ranges: pa.Table) -> Rows:
    """Return what puts MEASURED in order of (process, thread, start), from that of the forest."""
    if str(Origin.REPLAYED) not in ranges["origin"].unique().to_pylist():
        return slice(None)
    keys = [numbers(ranges, name) for name in ("start_ns", "tid", "pid")]  # replays come last; each goes to its launch
    return np.lexsort((np.arange(len(ranges)), *keys))


def _labels(nvtx: pa.Table, costs: RangeCosts, order: Rows) -> dict[str, object]:
    path, paths = coded(nvtx, "path")
    stage, stages = coded(nvtx, "stage")
    layer = costs.field("layer")[order]
    kind = _code(costs.field("kind"), LayerKind)[order]
    return {
        "path": recoded(path[order], paths),
        "module": recoded(path[order], [module_of(p) for p in paths]),
        "stage": recoded(stage[order], stages),
        "kind": recoded(np.where(kind < 0, list(LayerKind).index(LayerKind.REST), kind), list(LayerKind)),
        "level": recoded(np.maximum(_code(costs.field("level"), Level), 0)[order], list(Level)),
        "layer": pa.array(layer.astype(np.int32), mask=layer < 0),
        "dtype": recoded(np.maximum(_code(costs.field("dtype"), DTYPE_BYTES), 0)[order], list(DTYPE_BYTES)),
    }


def _code(values: Ints, members: type[LayerKind] | type[Level] | type[Stage] | dict[str, int]) -> Ints:
    """Return codes as they are where they name a member, else -1: a stranger's payload may hold any number."""
    return np.where((values >= 0) & (values < len(members)), values, -1)


def _devices(nvtx: pa.Table, operations: pa.Table, found: Attribution, measured: Measured, ranges: Forest) -> Ints:
    """Return the device of each range: that of most of its operations, else that of its process's most."""
    device = numbers(operations, "device")
    answer = np.full(len(ranges.start), -1)
    by_process = _most_used(numbers(operations, "pid"), device)
    for pid, ordinal in by_process.items():
        answer[numbers(nvtx, "pid")[ranges.rows] == pid] = ordinal
    if len(measured.devices) > 1:
        owned = np.flatnonzero(found.owner >= 0)
        for owner, ordinal in _most_used(found.owner[owned], device[owned]).items():
            answer[owner] = ordinal
    return answer


def _most_used(key: Places, device: Ints) -> dict[int, int]:
    number, first = groups(key, device)
    count = np.bincount(number, minlength=len(first))
    return {int(key[first[i]]): int(device[first[i]]) for i in np.argsort(count, kind="stable")}
