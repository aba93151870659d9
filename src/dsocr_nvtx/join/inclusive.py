"""Costs of version 1, which hold those of the ranges inside, made exclusive once, before anything is done with them.

Every cost but activations is additive: a container's own share is its cost less that of the ranges inside it, of the
same stage. Lower bounds of activations do not subtract (a fused layer reads less than its parts), so the payload
carried a container's own. A range with nothing inside keeps its whole cost, at whatever level it is.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from attrs import evolve, frozen

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import Ints, coded, known, numbers
from dsocr_nvtx.join.costs import RangeCosts
from dsocr_nvtx.join.events import parent_rows
from dsocr_nvtx.join.ranges import Ranges
from dsocr_nvtx.schema.payload import READ_FIELDS
from dsocr_nvtx.schema.records import COST_FIELDS, CostState
from dsocr_nvtx.schema.tables import MEASURED, RANGES, SINCE_VERSION_2, WORD, conform, repeat

OWN_ACTIVATIONS = "own_activation_bytes"
"""The column by which a table of version 1 is told."""
SHARED_COLUMNS = tuple(name for name in MEASURED.names if name not in SINCE_VERSION_2)
"""Columns of MEASURED that both versions have."""


@frozen(eq=False)
class _Inclusive:
    """Ranges in any order: the row of each one's container (-1), its stage, inclusive costs and own activations."""

    parent: Ints
    stage: Ints
    costs: Mapping[str, Ints]
    own_activations: Ints

    def exclusive(self) -> dict[str, Ints]:
        """Return every cost without that of the ranges inside.

        A container without a cost of its own (a step that was opened by hand) owns nothing, and its parts count for the
        range around it.
        """
        modelled = np.logical_or.reduce([values > 0 for values in self.costs.values()])
        parent = self.parent.copy()
        while (skip := (parent >= 0) & ~modelled[parent]).any():
            parent[skip] = parent[parent[skip]]
        part = np.flatnonzero(modelled & (parent >= 0) & (self.stage == self.stage[parent]))
        container = np.zeros(len(parent), bool)
        container[parent[part]] = True
        own = {name: values - _inside(values, parent, part) for name, values in self.costs.items()}
        own["activation_bytes"] = np.where(container, self.own_activations, self.costs["activation_bytes"])
        return own


def _inside(values: Ints, parent: Ints, part: Ints) -> Ints:
    total = np.zeros(len(values), np.int64)
    np.add.at(total, parent[part], values[part])
    return total


def exclusive(every: Ranges, where: str) -> Ranges:
    """Return ranges whose costs are all exclusive; those of version 2 stay as they are.

    Refused, in the name of ``where``: parts that cost more than their whole.
    """
    version = every.costs.field("version")
    old = np.flatnonzero(version == 1)
    if not len(old):
        return every
    row, place = np.full(len(version), -1), every.forest.parent
    row[every.forest.order] = np.where(place >= 0, every.forest.order[place], -1)
    stage, _ = coded(every.nvtx, "stage")
    nothing = version != 1
    costs = {name: np.where(nothing, 0, every.costs.field(name)) for name in COST_FIELDS}
    own = _Inclusive(row, stage, costs, every.costs.field(OWN_ACTIVATIONS)).exclusive()
    _check(own, every.nvtx, where)
    columns = list(every.costs.columns)
    for name, values in own.items():
        at = READ_FIELDS.index(name)
        columns[at] = np.where(nothing, columns[at], values)
    return evolve(every, costs=RangeCosts(columns, every.costs.source))


def exclusive_table(ranges: pa.Table, where: str) -> pa.Table:
    """Return a table of hooked calls, RANGES or MEASURED, with exclusive costs and the columns of this version.

    One that has them is returned as it is; refused is what `exclusive` refuses.
    """
    if OWN_ACTIVATIONS not in ranges.column_names:
        return ranges
    parent, (stage, _) = parent_rows(ranges, where), coded(ranges, "stage")
    costs = {name: numbers(ranges, name) for name in COST_FIELDS}
    own = _Inclusive(parent, stage, costs, numbers(ranges, OWN_ACTIVATIONS)).exclusive()
    _check(own, ranges, where)
    if "observed_weight_bytes" in ranges.column_names:
        seen, names = known(ranges, "observed_weight_bytes"), {**costs}
        names["weight_bytes"] = np.where(seen, numbers(ranges, "observed_weight_bytes"), costs["weight_bytes"])
        observed = _Inclusive(parent, stage, names, numbers(ranges, OWN_ACTIVATIONS)).exclusive()["weight_bytes"]
        own["observed_weight_bytes"] = pa.array(observed, mask=~seen | (own["weight_bytes"] == 0))
    batch, tokens, kv_len = (numbers(ranges, name) for name in ("batch", "tokens", "kv_len"))
    none = np.zeros(len(ranges), np.int64)
    state = repeat(pa.scalar(str(CostState.KNOWN)), len(ranges)).cast(WORD)
    own |= {"rows": batch * tokens, "keys": batch * kv_len, "pairs": none, "cost_state": state}
    schema = MEASURED if "pid" in ranges.column_names else RANGES
    kept = {name: ranges[name] for name in ranges.column_names if name in schema.names}
    about = {key.decode(): value.decode() for key, value in (ranges.schema.metadata or {}).items()}
    return conform(kept | own, pa.schema([f for f in schema if f.name in kept | own]), about)


def _check(own: Mapping[str, Ints], ranges: pa.Table, where: str) -> None:
    for name, values in own.items():
        short = np.flatnonzero(values < 0)
        if len(short):
            path = ranges["path"][int(short[0])].as_py()
            found = f"the ranges inside {path} cost more than {path} itself ({name} by {-int(values[short[0]])})"
            raise Refused(where, found, "the report mixes runs or was altered; record it again")
