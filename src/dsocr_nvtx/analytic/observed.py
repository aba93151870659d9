"""From the calls that hooks recorded to the rows of the static table, and whether the two tell the same.

Costs are exclusive: of a range that others lie in they are the container's own, as the static table's ``rest`` rows.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from dsocr_nvtx.analytic.layer import total
from dsocr_nvtx.analytic.table import Key, Row
from dsocr_nvtx.schema.records import (
    COST_FIELDS,
    Cost,
    CostState,
    ExpertsCall,
    LayerKind,
    Level,
    RangeRecord,
    Stage,
    is_call,
    module_of,
)


@frozen
class OwnCall:
    """A call whose cost is known, whether other calls lie inside it, and whether the costs of all those are known."""

    record: RangeRecord
    is_container: bool
    is_whole: bool = True

    @property
    def own(self) -> Cost:
        """What of the cost is the call's own: records hold nothing else."""
        return self.record.cost

    @property
    def key(self) -> Key:
        """The row that the call belongs to."""
        kind = LayerKind.REST if self.is_container else self.record.kind
        return self.record.stage, module_of(self.record.path), kind, self.record.layer


def own_calls(records: Sequence[RangeRecord]) -> list[OwnCall]:
    """Return every call whose cost is known; steps, and what was captured and ran nothing, are looked through."""
    ran = [record for record in records if is_call(record.path) and record.origin != "captured"]
    calls = {record.event_id: record for record in ran if record.state is not CostState.UNKNOWN}
    parents = {record.event_id: record.parent_id for record in records}
    containers = {_container(record, calls, parents) for record in calls.values()}
    partial = set[int]()
    for record in ran:
        at = record.parent_id if record.state is CostState.UNKNOWN else None
        while at is not None and at not in partial:
            partial.add(at)
            at = parents.get(at)
    return [OwnCall(record, event_id in containers, event_id not in partial) for event_id, record in calls.items()]


def _container(record: RangeRecord, calls: dict[int, RangeRecord], parents: dict[int, int | None]) -> int | None:
    """Return the event id of the call of the same stage around a call; None where there is none."""
    parent = record.parent_id
    while parent is not None and parent not in calls:
        parent = parents.get(parent)
    return parent if parent is not None and calls[parent].stage is record.stage else None


def observed_rows(calls: Iterable[OwnCall]) -> list[Row]:
    """Return what was observed as disjoint rows that add up, in the order in which their calls began."""
    gathered: dict[Key, list[Cost]] = defaultdict(list)
    for call in calls:
        gathered[call.key].append(call.own)
    return [
        Row(stage=stage, module=module, kind=kind, layer=layer, calls=len(costs), cost=total(costs))
        for (stage, module, kind, layer), costs in gathered.items()
    ]


def differences(observed: Sequence[Row], static: Sequence[Row], level: Level) -> list[str]:
    """Return one line for everything in which the hooks' rows and the static table's differ; none where they agree.

    At level ``op`` every row must agree in every field. Coarser levels record fewer rows, so stages are compared, and
    activations are not: a layer's lower bound is less than the sum of its parts'. Calls may differ, since two views
    are encoded in one call of the vision tower.
    """
    if level is Level.OP:
        found, expected = ({_row_name(row): row.cost for row in rows} for rows in (observed, static))
        return list(_differing(found, expected, COST_FIELDS))
    found, expected = _stage_totals(observed), _stage_totals(static)
    return list(_differing(found, expected, tuple(name for name in COST_FIELDS if name != "activation_bytes")))


def _differing(found: dict[str, Cost], expected: dict[str, Cost], names: Iterable[str]) -> Iterator[str]:
    for where in dict.fromkeys([*expected, *found]):
        if where not in found or where not in expected:
            yield f"{where}: {'not hooked' if where in expected else 'not in the static model'}"
            continue
        for name in names:
            hooked, static = getattr(found[where], name), getattr(expected[where], name)
            if hooked != static:
                yield f"{where}: {name} is {hooked} by the hooks, {static} by the static model"


def _stage_totals(rows: Sequence[Row]) -> dict[str, Cost]:
    stages = dict.fromkeys(row.stage for row in rows)
    return {str(stage): total(row.cost for row in rows if row.stage is stage) for stage in stages}


def _row_name(row: Row) -> str:
    layer = "" if row.layer is None else f".{row.layer}"
    return f"{row.stage} {row.module}{layer} {row.kind}"


def model_calls(calls: Iterable[OwnCall], stage: Stage) -> list[RangeRecord]:
    """Return the forwards over tokens of a stage."""
    return [call.record for call in calls if call.record.path == "model" and call.record.stage is stage]


def note_observed(records: Iterable[RangeRecord], calls: Iterable[ExpertsCall]) -> None:
    """Set ``observed_weight_bytes`` of the ranges whose cost holds that of experts that were observed.

    Ranges around them keep their own weights, which are all that they read. A range around several calls keeps the
    expected number for those of them that were not observed.
    """
    known = {record.event_id: record for record in records}
    for call in calls:
        record = known.get(call.event_id)
        if record is None or not record.cost.weight_bytes:
            continue
        before = record.observed_weight_bytes
        weights = record.cost.weight_bytes if before is None else before
        record.observed_weight_bytes = weights + call.observed_weight_bytes - call.expected_weight_bytes
        around = known.get(record.parent_id) if record.parent_id is not None else None
        while around is not None:
            if around.observed_weight_bytes is None and around.cost.weight_bytes:
                around.observed_weight_bytes = around.cost.weight_bytes
            around = known.get(around.parent_id) if around.parent_id is not None else None
