"""What went where, in numbers that must balance: the content of ``join.json``."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import asdict, frozen

from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.attribution import Attribution, Bucket
from dsocr_nvtx.join.columns import Ints, coded, known, numbers
from dsocr_nvtx.join.costs import CostSource
from dsocr_nvtx.join.measure import DeviceTime, Measured
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.replays import Origin, Ranges
from dsocr_nvtx.join.stalls import Stall, stalls


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
    launched inside a range, and inside one that has none inside it. ``classes`` is owned
    busy time by kernel class. ``stalls`` are each device's longest idle times while a hooked call was open.
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

    def balances(self) -> bool:
        """Say whether attributed + unattributed = total, and owned busy + owned idle = wall on every device."""
        counted = sum(count.ns for count in self.buckets.values()) == self.total_ns
        return counted and all(d.busy_ns + sum(d.idle_ns.values()) == d.wall_ns for d in self.devices)

    def as_dict(self) -> dict[str, object]:
        """Return plain data, ready for JSON."""
        plain = asdict(self)
        plain["devices"] = [{**asdict(device), "wall_ns": device.wall_ns} for device in self.devices]
        return plain


def account(trace: Trace, kernels: pa.Table, every: Ranges, found: Attribution, measured: Measured) -> Accounting:
    """Return the accounting of a join."""
    ranges, costs = every.forest, every.costs
    start, end = numbers(trace.operations, "start_ns"), numbers(trace.operations, "end_ns")
    duration = end - start
    inside = (start >= ranges.start.min()) & (end <= ranges.end.max())
    in_range = inside & (found.owner >= 0)
    in_leaf = in_range & _leaves(ranges)[found.owner]
    return Accounting(
        operations=len(duration),
        total_ns=int(duration.sum()),
        buckets={str(b): _count(duration, found.bucket == code) for code, b in enumerate(Bucket)},
        ranges=len(trace.nvtx),
        cost_sources={str(source): int((costs.source == code).sum()) for code, source in enumerate(CostSource)},
        announcements=len(trace.announcements),
        graphs=_graph_work(trace, every, found),
        covered=_share(duration, in_range, inside),
        covered_by_leaves=_share(duration, in_leaf, inside),
        classes=_classes(kernels),
        devices=tuple(measured.devices),
        stalls=stalls(trace, every, measured.longest),
    )


def _graph_work(trace: Trace, every: Ranges, found: Attribution) -> GraphWork:
    codes, words = coded(trace.operations, "operation")
    whole = codes == (words.index("graph") if "graph" in words else -1)
    node = known(trace.operations, "graph_node_id")
    origin = np.append(every.origin[every.forest.order], -1)
    layers = node & (origin[found.owner] == list(Origin).index(Origin.REPLAYED))
    note = ""
    if whole.any():
        note = f"{whole.sum()} graph launches were traced whole: their layers are not in this report; {_NODE_FLAG}"
    elif (node & ~layers).any():
        note = f"{(node & ~layers).sum()} operations are of graphs captured before the trace, or outside ranges: "
        note += "their layers are not in this report; capture graphs while nsys records, inside the hooked model"
    return GraphWork(
        launches=len(np.unique(found.call[(node | whole) & (found.call >= 0)])),
        captured_ranges=int((every.origin == list(Origin).index(Origin.CAPTURED)).sum()),
        replayed_ranges=int((every.origin == list(Origin).index(Origin.REPLAYED)).sum()),
        to_layers=int(layers.sum()),
        to_steps=int((node & ~layers).sum()),
        whole=int(whole.sum()),
        note=note,
    )


_NODE_FLAG = "profile with --cuda-graph-trace=node to keep them"


def _leaves(ranges: Forest) -> npt.NDArray[np.bool_]:
    leaf = np.ones(len(ranges.parent), bool)
    leaf[ranges.parent[ranges.parent >= 0]] = False
    return leaf


def _count(duration: Ints, which: npt.NDArray[np.bool_]) -> Count:
    return Count(int(which.sum()), int(duration[which].sum()))


def _share(duration: Ints, part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
    total = int(duration[whole].sum())
    return int(duration[part].sum()) / total if total else 0.0


def _classes(kernels: pa.Table) -> dict[str, int]:
    codes, words = coded(kernels, "class")
    owned = numbers(kernels, "busy_owned_ns")
    return {word: int(owned[codes == code].sum()) for code, word in enumerate(words)}
