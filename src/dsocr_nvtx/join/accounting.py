"""What went where, in numbers that must balance: the content of ``join.json``."""

from collections import Counter

import numpy as np
import pyarrow as pa
from attrs import asdict, field, frozen

from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.ingest.trace import SetApart, Trace
from dsocr_nvtx.join.attribution import Attribution, Bucket
from dsocr_nvtx.join.classes import classify
from dsocr_nvtx.join.columns import Ints, blocks, coded, dictionary_column, known, numbers
from dsocr_nvtx.join.contradictions import Contradictions
from dsocr_nvtx.join.costs import CostSource
from dsocr_nvtx.join.events import called
from dsocr_nvtx.join.ranges import Origin, Ranges
from dsocr_nvtx.join.served_marks import ServedWork
from dsocr_nvtx.join.stalls import Stall, stalls
from dsocr_nvtx.join.times import DeviceTime, Measured
from dsocr_nvtx.schema.payload import Flag
from dsocr_nvtx.schema.records import LayerKind, Level, code_of, is_host
from dsocr_nvtx.schema.values import values_of


@frozen
class Count:
    """A number of GPU operations and the plain sum of their durations."""

    operations: int
    ns: int


@frozen(kw_only=True)
class GraphWork:
    """Operations of CUDA graphs: of which layers are known, and of which only the step that launched them.

    ``to_layers``: nodes that went to the range open when they were captured. ``to_steps``: nodes captured before the
    trace or outside ranges. ``whole``: graphs traced as one operation. ``note`` says what to do about the latter.
    """

    launches: int = 0
    captured_ranges: int = 0
    replayed_ranges: int = 0
    to_layers: int = 0
    to_steps: int = 0
    whole: int = 0
    note: str = ""


@frozen(kw_only=True)
class Accounting:
    """Every operation by bucket, every nanosecond of every device by owner, and where costs came from.

    ``covered`` and ``covered_by_leaves`` are shares of the operation time between the first and the last hooked call:
    launched inside a range, and as a leaf's own work: with none inside, or of level op, or host work. ``classes`` is
    owned busy time by kernel class. ``stalls`` are each device's longest idle times while a hooked call was open.
    ``set_apart`` are records of the report that cannot be; they are in no other number here. ``unknown_costs`` and
    ``contradicted_costs`` say, by stage, of which sites how many calls have a cost that is not known, or that tensors
    contradict; ``contradiction`` is the first that hooks told of in words. ``served`` is what a serving engine told.
    """

    operations: int
    total_ns: int
    buckets: dict[str, Count]
    ranges: int
    cost_sources: dict[str, int]
    announcements: int
    covered: float
    covered_by_leaves: float
    classes: dict[str, int]
    devices: tuple[DeviceTime, ...]
    graphs: GraphWork = GraphWork()
    stalls: tuple[Stall, ...] = ()
    set_apart: tuple[SetApart, ...] = ()
    unknown_costs: dict[str, dict[str, int]] = field(factory=dict)
    contradicted_costs: dict[str, dict[str, int]] = field(factory=dict)
    contradiction: str = ""
    served: ServedWork = field(factory=ServedWork)

    def balances(self) -> bool:
        """Say whether attributed + unattributed = total, and owned busy + owned idle = wall on every device."""
        counted = sum(count.ns for count in self.buckets.values()) == self.total_ns
        return counted and all(d.busy_ns + sum(d.idle_ns.values()) == d.wall_ns for d in self.devices)

    def as_dict(self) -> dict[str, object]:
        """Return plain data, ready for JSON."""
        plain = asdict(self)
        plain["devices"] = [{**asdict(device), "wall_ns": device.wall_ns} for device in self.devices]
        return plain


def account(
    trace: Trace, every: Ranges, found: Attribution, measured: Measured, contradictions: Contradictions
) -> Accounting:
    """Return the accounting of a join."""
    count, ns = _sums(trace.operations, found, every)
    each = zip(Bucket, count.sum(axis=1).tolist(), ns.sum(axis=1).tolist(), strict=True)
    _, *inside = ns.sum(axis=0).tolist()
    return Accounting(
        operations=int(count.sum()),
        total_ns=int(ns.sum()),
        buckets={str(bucket): Count(*sums) for bucket, *sums in each},
        ranges=len(trace.nvtx),
        cost_sources=_sources(every),
        announcements=len(trace.announcements),
        graphs=_graph_work(trace, every, found),
        covered=_share(sum(inside[1:]), sum(inside)),
        covered_by_leaves=_share(inside[2], sum(inside)),
        classes=_classes(trace.operations, measured.op_busy_ns),
        devices=tuple(measured.devices),
        stalls=stalls(trace, every, measured.longest),
        set_apart=trace.set_apart,
        unknown_costs=_flagged(every, Flag.UNKNOWN),
        contradicted_costs=_flagged(every, Flag.CONTRADICTED),
        contradiction=next((one.text for _, one in contradictions), ""),
    )


def _sources(every: Ranges) -> dict[str, int]:
    """Return how many ranges have their cost from each source; what is no call needs none where none is told."""
    source, none = every.costs.source, list(CostSource).index(CostSource.NONE)
    needed = (source != none) | called(every.nvtx)
    return {str(one): int(((source == code) & needed).sum()) for code, one in enumerate(CostSource)}


def _flagged(every: Ranges, flag: Flag) -> dict[str, dict[str, int]]:
    """Return, by stage and site, how many ranges bear a flag, those with most first; what was captured ran nothing."""
    captured = every.origin == list(Origin).index(Origin.CAPTURED)
    rows = np.flatnonzero((every.costs.field("flags") & int(flag) != 0) & ~captured)
    (path, paths), (stage, stages) = coded(every.nvtx, "path"), coded(every.nvtx, "stage")
    counts = Counter(zip(stage[rows].tolist(), path[rows].tolist(), strict=True))
    found: dict[str, dict[str, int]] = {}
    for (one, site), count in counts.most_common():
        found.setdefault(stages[one], {})[paths[site]] = count
    return found


def _sums(operations: pa.Table, found: Attribution, every: Ranges) -> tuple[Ints, Ints]:
    """Return number and time of the operations, [bucket, where].

    Where: not between the first and the last hooked call, there but in no range, in a range, in a leaf's own work.
    """
    start, end = numbers(operations, "start_ns"), numbers(operations, "end_ns")
    low, high, leaf = every.forest.start.min(), every.forest.end.max(), _leaves(every)
    count, ns = np.zeros((2, len(Bucket), 4), np.int64)
    for part in blocks(len(start)):
        owner, inside = found.owner[part], (start[part] >= low) & (end[part] <= high)
        has = owner >= 0
        cell = found.bucket[part] * np.int64(4) + inside * (1 + has + (has & leaf[owner]))
        count += np.bincount(cell, minlength=count.size).reshape(count.shape)
        np.add.at(ns.reshape(-1), cell, end[part] - start[part])
    return count, ns


def _graph_work(trace: Trace, every: Ranges, found: Attribution) -> GraphWork:
    whole, node = _is_word(trace.operations["operation"], "graph"), known(trace.operations, "graph_node_id")
    rows = np.flatnonzero(whole | node)
    whole, node, owner, call = whole[rows], node[rows], found.owner[rows], found.call[rows]
    replayed = np.append(every.origin == list(Origin).index(Origin.REPLAYED), False)
    layers = node & replayed[np.where(owner >= 0, every.forest.order[owner], -1)]
    note = ""
    if whole.any():
        note = f"{whole.sum()} graph launches were traced whole: their layers are not in this report; {_NODE_FLAG}"
    elif (node & ~layers).any():
        note = f"{(node & ~layers).sum()} operations are of graphs captured before the trace, or outside ranges: "
        note += "their layers are not in this report; capture graphs while nsys records, inside the hooked model"
    return GraphWork(
        launches=len(np.unique(call[call >= 0])),
        captured_ranges=int((every.origin == list(Origin).index(Origin.CAPTURED)).sum()),
        replayed_ranges=int((every.origin == list(Origin).index(Origin.REPLAYED)).sum()),
        to_layers=int(layers.sum()),
        to_steps=int((node & ~layers).sum()),
        whole=int(whole.sum()),
        note=note,
    )


_NODE_FLAG = "profile with --cuda-graph-trace=node to keep them"


def _leaves(every: Ranges) -> Mask:
    """Return which ranges' own work is a leaf's: nothing is inside, or it is of a kind whatever is inside.

    That is so of ranges of the finest level, such as experts that call a gate, and of host work.
    """
    ranges, (path, paths) = every.forest, coded(every.nvtx, "path")
    of_a_kind = (every.costs.field("level") == _OP) & (every.costs.field("kind") != _REST)
    leaf = (np.array([is_host(one) for one in paths], bool)[path] | of_a_kind)[ranges.order]
    without = np.ones(len(ranges.parent), bool)
    without[ranges.parent[ranges.parent >= 0]] = False
    return np.asarray(leaf | without, bool)


_OP, _REST = code_of(Level.OP), code_of(LayerKind.REST)


def _is_word(column: pa.ChunkedArray, word: str) -> Mask:
    """Return which rows of a dictionary column without nulls hold a word."""
    pieces = ((values_of(piece), piece.dictionary.to_pylist()) for piece in column.chunks)
    return np.concatenate([np.zeros(0, bool), *(np.isin(codes, _codes(words, word)) for codes, words in pieces)])


def _codes(words: list[str], word: str) -> list[int]:
    return [code for code, one in enumerate(words) if one == word]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _classes(operations: pa.Table, owned: Ints) -> dict[str, int]:
    names = dictionary_column(operations, "name")
    codes, total = values_of(names), np.zeros(len(names.dictionary), np.int64)
    for part in blocks(len(codes)):
        np.add.at(total, codes[part], owned[part])
    classes: Counter[str] = Counter()
    for name, ns in zip(names.dictionary.to_pylist(), total.tolist(), strict=True):
        classes[str(classify(name)[0])] += ns
    return dict(classes)
