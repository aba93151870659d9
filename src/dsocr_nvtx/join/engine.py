"""The join: a trace in, the joined tables and their accounting out."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import pyarrow as pa
from attrs import evolve, field, frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import mapped
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.accounting import Accounting, account
from dsocr_nvtx.join.announced import read_announced
from dsocr_nvtx.join.attribution import Attribution, attribute
from dsocr_nvtx.join.captures import captures
from dsocr_nvtx.join.columns import Ints, as_they_stand, groups, numbers
from dsocr_nvtx.join.contradictions import Contradictions, contradicted, read_contradictions
from dsocr_nvtx.join.costs import CostSource, check_sums, range_costs
from dsocr_nvtx.join.experts import observed_weights
from dsocr_nvtx.join.host_calls import host_calls
from dsocr_nvtx.join.host_work import HostWork
from dsocr_nvtx.join.inclusive import exclusive
from dsocr_nvtx.join.kernels import Kernels
from dsocr_nvtx.join.measure import measure
from dsocr_nvtx.join.nesting import Forest
from dsocr_nvtx.join.ranges import Ranges
from dsocr_nvtx.join.ranks import identities
from dsocr_nvtx.join.replays import captured_ranges, replay
from dsocr_nvtx.join.served import served
from dsocr_nvtx.join.served_marks import read_served
from dsocr_nvtx.join.tables import measured_table, time_order
from dsocr_nvtx.join.times import Measured
from dsocr_nvtx.schema.ranks import Rank
from dsocr_nvtx.schema.summaries import API_CALLS, HOST_CALLS


@frozen(kw_only=True, eq=False)
class Joined:
    """KERNELS yet to be made, MEASURED, HOST_CALLS, the accounting of one trace, and its ranks by process id.

    ``api_calls`` has the columns of API_CALLS; its numbers take as few bytes as they came in. ``served`` are the tables
    of a serving engine's run, by the names of their files; none of any other.
    """

    operations: Kernels
    ranges: pa.Table
    accounting: Accounting
    ranks: Mapping[int, Rank] = field(factory=dict)
    host_calls: pa.Table = field(factory=HOST_CALLS.empty_table)
    api_calls: pa.Table = field(factory=API_CALLS.empty_table)
    served: Mapping[str, pa.Table] = field(factory=dict)

    @cached_property
    def kernels(self) -> pa.Table:
        """KERNELS, whole."""
        return self.operations.table()


def join(trace: Trace, where: str, *, priced: bool = True, told: Rank | None = None) -> Joined:
    """Join one trace. ``where`` names it in errors, ``told`` is the rank that its run directory states.

    What of a trace is needed no more is let go of, and where nobody else holds on to the trace its memory serves again.
    Refused: a trace without ranges of ours, or, where ranges must be ``priced``, one in which none has a cost. The
    sums are checked before anything is returned: attributed + unattributed = total, and owned busy + owned idle = wall,
    on every device, to the nanosecond.
    """
    if not len(trace.nvtx):
        remedy = (
            "run the model with `python -m dsocr_nvtx.run` or inside `with hook(model):`, under nsys -t cuda,nvtx; "
        )
        remedy += f"of any report's ranges: dsocr-nvtx project {shlex.quote(where)} -o projected.csv"
        raise Refused(where, "the report has no range of NVTX domain `dsocr`", remedy)
    who = identities(trace, where, told)
    contradictions = read_contradictions(trace.announcements)
    marks = read_served(trace.announcements)
    every, found, measured = _measured(trace, contradictions, where, priced=priced, kept=bool(marks))
    with ThreadPoolExecutor(1) as aside:
        accounted = aside.submit(account, trace, every, found, measured, contradictions)
        weights = observed_weights(every, trace.hits, where)
        called = host_calls(trace.launches, every, found.caller)
        accounting = accounted.result()
    if not accounting.balances():
        raise AssertionError(f"{where}: the join lost time; please report this with the report's nsys version")
    operations, launches = trace.operations, trace.launches.select(("tid", "start_ns"))
    calls = trace.launches.select(("pid", "tid", "start_ns", "end_ns", "name")).rename_columns(API_CALLS.names)
    del trace, accounted
    owner = measured.rows(found.owner)
    ranges = measured_table(every, measured, weights, who)
    del every
    order = time_order(ranges)
    if not isinstance(order, slice):
        ranges, owner = ranges.take(order), np.append(np.argsort(order), -1)[owner]
    kernels = Kernels.of(operations, launches, ranges, found, owner, measured.op_busy_ns, who)
    of_engine = served(marks, ranges, order, measured.instants, where)
    return Joined(
        operations=kernels, ranges=ranges, accounting=evolve(accounting, served=of_engine.work), ranks=who.ranks,
        host_calls=called, api_calls=calls, served=of_engine.tables,
    )  # fmt: skip


def _measured(
    trace: Trace, contradictions: Contradictions, where: str, *, priced: bool, kept: bool
) -> tuple[Ranges, Attribution, Measured]:
    """Return all ranges with their costs, whose every operation is, and how long all took.

    What was announced is needed no longer then.
    """
    nvtx = trace.nvtx
    # Costs and times do not need each other, but for replayed graphs, and numpy works without the GIL.
    with ThreadPoolExecutor(1) as aside:
        announcing = aside.submit(read_announced, trace.costs)
        pricing = aside.submit(lambda: range_costs(nvtx, announcing.result(), where))
        ranges = Forest.build(*(numbers(nvtx, name) for name in ("pid", "tid", "start_ns", "end_ns")))
        found = attribute(trace.operations, trace.launches, trace.graph_nodes, ranges)
        within = captured_ranges(ranges, nvtx, captures(trace.launches))
        measured = None if (within >= 0).any() else _times(trace, found, ranges, nvtx, kept)
        announced, costs = announcing.result(), pricing.result()
    if priced and not (costs.source != list(CostSource).index(CostSource.NONE)).any():
        remedy = "export with nsys export -t sqlite --include-blobs true, or record from the start of the run"
        raise Refused(where, "no range in the report has a cost (no payload, no announcement)", remedy)
    every, found = replay(trace, announced, costs, ranges, found, within)
    check_sums(every.costs, where)
    every = contradicted(exclusive(every, where), contradictions)
    return every, found, measured or _times(trace, found, every.forest, every.nvtx, kept)


def _times(trace: Trace, found: Attribution, ranges: Forest, nvtx: pa.Table, kept: bool) -> Measured:
    pid = as_they_stand(nvtx, "pid")[ranges.rows]
    host = HostWork.of(nvtx, ranges)
    return measure(trace.operations, trace.launches, found, ranges, pid, gpus(trace), host, kept=kept)


def gpus(trace: Trace) -> Ints:
    """Return a number per operation that tells GPUs apart, by identity where the report has it, else by ordinal."""
    pid, device = numbers(trace.operations, "pid"), numbers(trace.operations, "device")
    pair, first = groups(pid, device)
    keys = [(int(pid[i]), int(device[i])) for i in first]
    known = [trace.devices[key].uuid if key in trace.devices else "" for key in keys]
    names = [uuid or f"ordinal {ordinal}" for uuid, (_, ordinal) in zip(known, keys, strict=True)]
    numbered = {name: code for code, name in enumerate(dict.fromkeys(names))}
    code = np.array([numbered[name] for name in names], np.int64)
    return mapped(lambda rows: code[rows], pair)
