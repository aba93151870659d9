"""The joined tables: one row per GPU operation, and one row per hooked call with its costs and times."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.join.attribution import Attribution, Bucket
from dsocr_nvtx.join.classes import classify
from dsocr_nvtx.join.columns import (
    Ints,
    blocks,
    coded,
    dictionary_column,
    groups,
    nullable,
    numbers,
    recoded,
    sorting,
)
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.measure import Measured
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ranks import Identities
from dsocr_nvtx.join.replays import Origin
from dsocr_nvtx.schema.records import COST_FIELDS, DTYPE_BYTES, LayerKind, Level, Stage, module_of
from dsocr_nvtx.schema.tables import KERNELS, MEASURED, OPERATIONS, conform

_PLAIN = ("event_id", "step", "batch", "tokens", "kv_len")


def kernel_table(
    operations: pa.Table, launches: pa.Table, nvtx: pa.Table, found: Attribution, costs: RangeCosts,
    measured: Measured, ranges: Forest, who: Identities,
) -> pa.Table:  # fmt: skip
    """Return KERNELS, in time order."""
    owner, call = _rows(found.owner, ranges.order), _rows(found.call)
    name = dictionary_column(operations, "name")
    kinds, rules = zip(*map(classify, name.dictionary.to_pylist()), strict=True) if len(name) else ((), ())
    columns: dict[str, object] = {field.name: operations[field.name] for field in OPERATIONS}
    columns |= {
        "event_id": _taken(costs.field("event_id"), owner),
        "stage": dictionary_column(nvtx, "stage").take(owner),
        "step": _taken(costs.field("step"), owner),
        "path": dictionary_column(nvtx, "path").take(owner),
        "launch_tid": _taken(numbers(launches, "tid"), call),
        "launch_ns": _taken(numbers(launches, "start_ns"), call),
        "bucket": recoded(found.bucket, list(Bucket)),
        "class": _renamed(name, [str(kind) for kind in kinds]),
        "rule": _renamed(name, list(rules)),
        "busy_owned_ns": measured.op_busy_ns,
        **who.columns(numbers(operations, "pid"), numbers(operations, "device")),
    }
    keys = ("device", "start_ns", "end_ns", "stream", "correlation_id")
    order = sorting(*(numbers(operations, key) for key in keys))
    table = conform(columns, KERNELS)
    return table if isinstance(order, slice) else table.take(order)


def _rows(position: Ints, order: Ints | None = None) -> pa.Array:
    """Return the row at each position, null where that is negative, in as few bytes as hold them."""
    rows = np.empty(len(position), np.int32)
    for part in blocks(len(rows)):
        rows[part] = position[part] if order is None else order.take(position[part], mode="clip")
    return nullable(rows, position < 0)


def _taken(values: Ints, rows: pa.Array) -> Ints | pa.Array:
    if values.strides == (0,) and len(values) and not rows.null_count:
        return np.broadcast_to(values[0], len(rows))
    return pa.array(np.ascontiguousarray(values)).take(rows)


def _renamed(column: pa.DictionaryArray, names: list[str]) -> pa.DictionaryArray:
    """Return other names for a column's words; names that repeat become one."""
    unique = {name: code for code, name in enumerate(dict.fromkeys(names))}
    recode = pa.array([unique[name] for name in names], pa.int32())
    return pa.DictionaryArray.from_arrays(recode.take(column.indices), pa.array(list(unique), pa.string()))


def measured_table(
    nvtx: pa.Table, operations: pa.Table, found: Attribution, costs: RangeCosts, measured: Measured, ranges: Forest,
    observed_weights: pa.Array, origin: Ints, who: Identities,
) -> pa.Table:  # fmt: skip
    """Return MEASURED, in order of (process, thread, start); ``observed_weights`` is in that order already."""
    order = ranges.order
    parent = np.where(ranges.parent >= 0, costs.field("event_id")[order][ranges.parent], -1)
    start, end = numbers(nvtx, "start_ns")[order], numbers(nvtx, "end_ns")[order]
    inside = np.zeros(len(order), np.int64)
    have = np.flatnonzero(ranges.parent >= 0)
    np.add.at(inside, ranges.parent[have], (end - start)[have])
    idle = {f"idle_{cause}_ns": values for cause, values in measured.idle_ns.items()}
    idle_owned = sum(idle.values(), np.zeros(len(order), np.int64))
    device = _devices(nvtx, operations, found, measured, ranges)
    columns: dict[str, object] = {
        **{name: costs.field(name)[order] for name in (*_PLAIN, *COST_FIELDS, "own_activation_bytes")},
        **_labels(nvtx, costs, order),
        "observed_weight_bytes": observed_weights,
        "origin": recoded(origin[order], list(Origin)),
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
    }  # fmt: skip
    table = conform(columns, MEASURED)
    if (origin == list(Origin).index(Origin.REPLAYED)).any():  # they come last; put each where its launch was
        keys = [start, *(numbers(nvtx, name)[order] for name in ("tid", "pid"))]
        return table.take(np.lexsort((np.arange(len(order)), *keys)))
    return table


def _labels(nvtx: pa.Table, costs: RangeCosts, order: Ints) -> dict[str, object]:
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
    answer = np.full(len(ranges.order), -1)
    by_process = _most_used(numbers(operations, "pid"), device)
    for pid, ordinal in by_process.items():
        answer[numbers(nvtx, "pid")[ranges.order] == pid] = ordinal
    owned = np.flatnonzero(found.owner >= 0)
    if len(measured.devices) > 1:
        for owner, ordinal in _most_used(found.owner[owned], device[owned]).items():
            answer[owner] = ordinal
    return answer


def _most_used(key: Ints, device: Ints) -> dict[int, int]:
    number, first = groups(key, device)
    count = np.bincount(number, minlength=len(first))
    return {int(key[first[i]]): int(device[first[i]]) for i in np.argsort(count, kind="stable")}
