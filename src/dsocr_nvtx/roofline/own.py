"""What each range does itself, once the ranges inside it are reported on their own, so that rows are disjoint.

Every cost but activations is additive: a container's own share is its cost less that of the ranges inside it, of the
same stage. Lower bounds of activations do not subtract (a fused layer reads less than its parts), so the payload
carries a container's own. A range with nothing inside keeps its whole cost, at whatever level it is.
"""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.ingest.source import Mask
from dsocr_nvtx.join.columns import Ints, Places, coded, known, numbers, rows_of
from dsocr_nvtx.schema.records import COST_FIELDS, LayerKind, Level


def own_costs(ranges: pa.Table, where: str = "report") -> dict[str, Ints]:
    """Return, per row of a MEASURED table, its own share of every `Cost` field.

    A container without a cost of its own (a step that was opened by hand) owns nothing, and its parts count for the
    range around it. Refused, in the name of ``where``: a container whose parts cost more than it does,
    and two calls of a process with one event id.
    """
    costs = {name: numbers(ranges, name) for name in COST_FIELDS} | {"weight_bytes": weights(ranges)}
    modelled = np.logical_or.reduce([values > 0 for values in costs.values()])
    parent = parent_rows(ranges, where)
    while (skip := (parent >= 0) & ~modelled[parent]).any():
        parent[skip] = parent[parent[skip]]
    stage, _ = coded(ranges, "stage")
    part = np.flatnonzero(modelled & (parent >= 0) & (stage == stage[parent]))
    container = np.zeros(len(ranges), bool)
    container[parent[part]] = True
    own = {name: values - _inside(values, parent, part) for name, values in costs.items()}
    own["activation_bytes"] = np.where(container, numbers(ranges, "own_activation_bytes"), costs["activation_bytes"])
    _check(ranges, own, where)
    return own


def weights(ranges: pa.Table) -> Ints:
    """Return the weights that each call read, those of the experts observed where they were, else of the expected."""
    if "observed_weight_bytes" not in ranges.column_names:  # a table written before experts were observed
        return numbers(ranges, "weight_bytes")
    return np.where(
        known(ranges, "observed_weight_bytes"),
        numbers(ranges, "observed_weight_bytes"),
        numbers(ranges, "weight_bytes"),
    )


def certain_costs(ranges: pa.Table, own: dict[str, Ints]) -> dict[str, Ints]:
    """Return own costs without weights that are only expected: of routed experts that nobody observed.

    Only what a call cannot have done without may contradict its time.
    """
    kind, kinds = coded(ranges, "kind")
    level, levels = coded(ranges, "level")
    experts = np.isin(kind, [code for code, word in enumerate(kinds) if word == LayerKind.EXPERTS])
    experts &= ~of_origin(ranges, "captured")  # they ran nothing
    coarse = np.isin(level, [code for code, word in enumerate(levels) if word != Level.OP])
    module, modules = coded(ranges, "module")
    routed = np.isin(module, [code for code, word in enumerate(modules) if word in ("decoder", "model")])
    observed = "observed_weight_bytes" in ranges.column_names and known(ranges, "observed_weight_bytes")
    unsure = (experts | (coarse & routed)) & ~np.asarray(observed)
    return {**own, "weight_bytes": np.where(unsure, 0, own["weight_bytes"])}


def experts_source(ranges: pa.Table) -> str:
    """Return whose number of experts the weights hold: that observed, that expected under uniform routing, or both."""
    if "observed_weight_bytes" not in ranges.column_names or not known(ranges, "observed_weight_bytes").any():
        return "expected"
    kind, kinds = coded(ranges, "kind")
    experts = np.isin(kind, [code for code, word in enumerate(kinds) if word == LayerKind.EXPERTS])
    experts &= ~of_origin(ranges, "captured")  # they ran nothing
    return "observed" if known(ranges, "observed_weight_bytes")[experts].all() else "observed in part"


def of_origin(ranges: pa.Table, word: str) -> Mask:
    """Return which calls came about this way: call, captured or replayed."""
    if "origin" not in ranges.column_names:  # a table written before graphs were replayed
        return np.full(len(ranges), word == "call")
    codes, words = coded(ranges, "origin")
    return np.asarray(codes == (words.index(word) if word in words else -1), bool)


def _inside(values: Ints, parent: Ints, part: Ints) -> Ints:
    total = np.zeros(len(values), np.int64)
    np.add.at(total, parent[part], values[part])
    return total


def rows_of_events(ranges: pa.Table, pid: Ints, event: Ints) -> Places:
    """Return the row of each (process, event id), the first of several, -1 where there is none."""
    return rows_of(numbers(ranges, "pid"), numbers(ranges, "event_id"), pid, event)


def parent_rows(ranges: pa.Table, where: str) -> Ints:
    """Return each row's parent row, or -1; refuse two calls of a process with one event id."""
    pid, event, parent = (numbers(ranges, n) for n in ("pid", "event_id", "parent_id"))
    twice = np.flatnonzero(rows_of(pid, event, pid, event) != np.arange(len(ranges)))
    if len(twice):
        found = f"event id {event[twice[0]]} of process {pid[twice[0]]} stands for two calls"
        raise Refused(where, found, "record one run in each process, with the hooks attached once")
    return np.where(known(ranges, "parent_id"), rows_of(pid, event, pid, parent), -1)


def _check(ranges: pa.Table, own: dict[str, Ints], where: str) -> None:
    for name, values in own.items():
        short = np.flatnonzero(values < 0)
        if len(short):
            path = ranges["path"][int(short[0])].as_py()
            found = f"the ranges inside {path} cost more than {path} itself ({name} by {-int(values[short[0]])})"
            raise Refused(where, found, "the report mixes runs or was altered; record it again")
