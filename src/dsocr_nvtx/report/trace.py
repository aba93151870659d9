"""A join's tables as a trace for viewers: the Trace Event Format, which ui.perfetto.dev and chrome://tracing open.

What is drawn, and from what:

- a process per process, a thread per thread: every hooked call of ``ranges.arrow`` that took host time, a slice named
  by its path. Costs and times in its arguments are its own, as in the table; a call that has others inside has the sums
  of all of them too, named inclusive. ``efficiency`` and ``bound`` are of the row of ``roofline.arrow`` it belongs to.
- a process per (process, GPU), a thread per stream: every operation of ``kernels.arrow``, by its short name; what
  overlaps on one stream goes to further lanes (`dsocr_nvtx.report.lanes`).
- over the streams, a thread for the stages' steps and one for their layers, each from the begin of its first operation
  to the end of the last; beside a host's threads, one with the CUDA calls of each (`dsocr_nvtx.report.overlays`).
- calls replayed by a CUDA graph took no host time: they are drawn beside the streams, from the begin of their first
  operation to the end of the last, those of calls inside included; one without operations is not drawn, but counted.
- a flow per operation that a call owns: from the call, at the instant of the launch, to the operation (not where either
  lasted no time). For replayed calls it begins in the call around the graph's launch. Perfetto would take some for
  those of an earlier call inside, which has ended: they begin where their call does; ``launch_ns`` says when.
- three counters per (process, GPU), `dsocr_nvtx.roofline.rates`: ``FLOP/s``, ``B/s`` and ``roof share``, as achieved.
  Each is 0 where no operation of a call runs.

Times are those of the tables, in microseconds with three decimals: viewers read them as doubles, which hold every
nanosecond below 2**50 (13 days). Where times are larger (a clock of the epoch) or negative, the earliest is subtracted
from all; ``otherData.origin_ns`` says what was. ``otherData`` also has what was not drawn.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import fields, frozen

from dsocr_nvtx.join.columns import Ints, dictionary_column
from dsocr_nvtx.join.naming import short_name
from dsocr_nvtx.report.scene import Counters, Flows, Scene, Slices
from dsocr_nvtx.roofline.least import Floats
from dsocr_nvtx.roofline.rates import Rates

Table = TypeVar("Table", Slices, Flows, Counters)

_BATCH = 1024
"""Events made at a time: a name may be 100 kB long, and every event repeats its name."""

_CALL = (
    "event_id", "step", "layer", "batch", "tokens", "kv_len", "tensor_flops", "vector_flops", "weight_bytes",
    "observed_weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes", "busy_owned_ns", "idle_owned_ns",
    "wall_ns", "stage", "kind", "level", "origin", "efficiency", "bound",
)  # fmt: skip
_OPERATION = (
    "event_id", "step", "correlation_id", "launch_ns", "blocks", "threads", "bytes", "busy_owned_ns", "graph_node_id",
    "operation", "class", "bucket", "stage", "path", "name",
)  # fmt: skip


def trace_text(kernels: pa.Table, ranges: pa.Table, rows: pa.Table, found: Rates, scene: Scene) -> Iterator[bytes]:
    """Yield the trace of KERNELS, MEASURED and ROOFLINE tables, piece by piece; the same tables make the same bytes."""
    about = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
    other = json.dumps({**about, "origin_ns": scene.origin, **scene.left_out})
    yield f'{{"displayTimeUnit":"ns","otherData":{other},"traceEvents":[\n'.encode()
    yield _names(scene)
    judged = rows.select(["efficiency", "bound"]).take(found.row)
    calls = _Texts({**_columns(ranges), **_columns(judged), **_columns(scene.inclusive)})
    yield from _slices(calls, scene.calls, ("path", "stage"), (*_CALL, *scene.inclusive.column_names), scene.origin)
    operations = _Texts({**_columns(kernels), "short_name": _short_names(kernels)})
    yield from _slices(operations, scene.operations, ("short_name", "class"), _OPERATION, scene.origin)
    yield from _slices(_Texts(_columns(scene.lane_table)), scene.lanes, ("name", "category"), (), scene.origin)
    yield from _flows(scene)
    yield from _counters(scene)
    yield b"\n]}\n"


def _names(scene: Scene) -> bytes:
    """Return the names and order of processes and threads: with any slice there is one, so others follow a comma."""
    events: list[dict[str, object]] = []
    for at, (pid, name) in enumerate(scene.processes):
        for kind, args in (("name", {"name": name}), ("sort_index", {"sort_index": at})):
            events.append({"ph": "M", "name": f"process_{kind}", "pid": pid, "args": args})
    for at, (pid, tid, name) in enumerate(scene.threads):
        for kind, args in (("name", {"name": name}), ("sort_index", {"sort_index": at})):
            events.append({"ph": "M", "name": f"thread_{kind}", "pid": pid, "tid": tid, "args": args})
    return ",\n".join(json.dumps(event, separators=(",", ":")) for event in events).encode()


def _slices(
    texts: "_Texts", slices: Slices, named: tuple[str, str], arguments: tuple[str, ...], origin: int
) -> Iterator[bytes]:
    for part in _batches(slices):
        name, category = (texts.value(column, part.row) for column in named)
        yield _joined(
            ',\n{"ph":"X","name":', name, ',"cat":', category, *_place(part),
            ',"ts":', _microseconds(part.start - origin), ',"dur":', _microseconds(part.end - part.start),
            ',"args":{"row":', _whole(part.row), *(texts.argument(column, part.row) for column in arguments), "}}",
        )  # fmt: skip


def _flows(scene: Scene) -> Iterator[bytes]:
    # After all slices, and bound to the slice around either end: so the order of events at one instant cannot matter.
    to = scene.operations
    for part in _batches(scene.flows):
        rows, number = part.operation, _whole(part.operation)
        ends = Flows(rows, to.pid[rows], to.tid[rows], to.start[rows])
        for kind, at in (('"s"', part), ('"f","bp":"e"', ends)):
            begin = _text(f',\n{{"ph":{kind},"name":"launch","cat":"launch","id":', number, *_place(at))
            yield _joined(begin, ',"ts":', _microseconds(at.time - scene.origin), "}")


def _counters(scene: Scene) -> Iterator[bytes]:
    # A counter each: series of one counter are stacked by chrome://tracing, whatever their units.
    for part in _batches(scene.counters):
        pid, start = _whole(part.pid), _microseconds(part.time - scene.origin)
        for name, rates in (("FLOP/s", part.flops), ("B/s", part.bytes), ("roof share", part.share)):
            begin = _text(f',\n{{"ph":"C","name":"{name}","pid":', pid, ',"ts":', start)
            yield _joined(begin, ',"args":{"achieved":', _decimal(rates), "}}")


@frozen(eq=False)
class _Texts:
    """A table's columns as JSON text, some rows at a time; each word of a dictionary column is escaped once."""

    columns: Mapping[str, tuple[pa.Array, pa.Array | None]]

    def argument(self, name: str, rows: Ints) -> pa.Array | str:
        """Return ``,"name":value``; nothing where the value is not known or the table has no such column."""
        if name not in self.columns:
            return ""
        return pc.fill_null(_text(f',"{name}":', self.value(name, rows)), "")

    def value(self, name: str, rows: Ints) -> pa.Array:
        """Return the values as JSON, null where not known."""
        values, words = self.columns[name]
        taken = values.take(pa.array(rows))
        if pa.types.is_floating(taken.type):
            return _decimal(taken.to_numpy(zero_copy_only=False))
        return taken.cast(pa.string()) if words is None else words.take(taken)


def _short_names(kernels: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Return the operations' short names, as `_columns` does a column."""
    column = dictionary_column(kernels, "name")
    return column.indices, pa.array(
        [json.dumps(short_name(word)) for word in column.dictionary.to_pylist()], pa.string()
    )


def _columns(table: pa.Table) -> dict[str, tuple[pa.Array, pa.Array | None]]:
    """Return each column as its values, or as codes and their words in JSON."""
    columns = {}
    whole = table.unify_dictionaries().combine_chunks()
    for name, column in zip(whole.column_names, whole.columns, strict=True):
        values = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_dictionary(column.type):
            words = pa.array([json.dumps(word) for word in values.dictionary.to_pylist()], pa.string())
            columns[name] = (values.indices, words)
        else:
            columns[name] = (values, None)
    return columns


def _batches(columns: Table) -> Iterator[Table]:
    names = [field.name for field in fields(type(columns))]
    count = len(getattr(columns, names[0]))
    for at in range(0, count, _BATCH):
        yield type(columns)(*(getattr(columns, name)[at : at + _BATCH] for name in names))


def _place(part: Slices | Flows) -> tuple[pa.Array | str, ...]:
    return ',"pid":', _whole(part.pid), ',"tid":', _whole(part.tid)


def _whole(values: Ints) -> pa.Array:
    return pa.array(values).cast(pa.string())


def _decimal(values: Floats) -> pa.Array:
    """Return numbers with 16 digits and an exponent, null for nan: Perfetto misreads more than 18 after the point."""
    unique, place = np.unique(values, return_inverse=True)
    texts = [None if np.isnan(value) else f"{value:.15e}" if value else "0" for value in unique.tolist()]
    return pa.array(texts, pa.string()).take(pa.array(place))


def _microseconds(ns: Ints) -> pa.Array:
    """Return nanoseconds, not negative, as microseconds with three decimals."""
    return _text(_whole(ns // 1000), ".", pc.utf8_lpad(_whole(ns % 1000), 3, "0"))


def _text(*pieces: pa.Array | str) -> pa.Array:
    """Return the pieces end to end per event; null where one of them is."""
    return pc.binary_join_element_wise(*pieces, "")


def _joined(*pieces: pa.Array | str) -> bytes:
    """Return all events' text end to end, without a Python object for each."""
    text = _text(*pieces).cast(pa.large_string())
    edges = np.frombuffer(text.buffers()[1], np.int64)[text.offset :]
    return memoryview(text.buffers()[2])[edges[0] : edges[len(text)]].tobytes()
