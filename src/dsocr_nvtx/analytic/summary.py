"""A real run in numbers: what each stage and layer cost by what was observed, per token, per page, and the cache."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from dsocr_nvtx.analytic.layer import total
from dsocr_nvtx.analytic.observed import OwnCall, model_calls
from dsocr_nvtx.analytic.report import Data
from dsocr_nvtx.schema.records import COST_FIELDS, Cost, ExpertsCall, Stage, module_of


def run_summary(calls: Sequence[OwnCall], pages: int, experts: Iterable[ExpertsCall] = ()) -> dict[str, Data]:
    """Return the summary of a run over ``pages`` pages; averages are over what was observed, nothing is assumed.

    ``stages`` and ``layers`` add up own costs, so each sums to the run. ``decode_per_token`` divides by the tokens
    that were decoded, ``per_page`` by the pages. ``kv_steps`` holds the cache after every forward; ``growth_bytes`` is
    what the forward added. ``experts`` holds, per stage and layer, the distinct experts of a call on average, expected
    and observed, and how many rows each expert got in all.
    """
    by_stage, by_layer = _grouped(calls)
    decoded = sum(record.shape.rows for record in model_calls(calls, Stage.DECODE))
    stages: dict[str, Data] = {str(stage): _totals(found) for stage, found in by_stage.items()}
    layers: list[Data] = [
        {"stage": str(stage), "module": module, "layer": layer, **_totals(found)}
        for (stage, module, layer), found in by_layer.items()
    ]
    return {
        "pages": pages,
        "stages": stages,
        "layers": layers,
        "decoded_tokens": decoded,
        "decode_per_token": _averages(by_stage.get(Stage.DECODE, []), decoded),
        "per_page": _averages(calls, pages),
        "kv_steps": _kv_steps(calls),
        "experts": _experts(experts),
    }


_Layer = tuple[Stage, str, int | None]


def _grouped(calls: Iterable[OwnCall]) -> tuple[dict[Stage, list[OwnCall]], dict[_Layer, list[OwnCall]]]:
    by_stage: dict[Stage, list[OwnCall]] = defaultdict(list)
    by_layer: dict[_Layer, list[OwnCall]] = defaultdict(list)
    for call in calls:
        record = call.record
        by_stage[record.stage].append(call)
        by_layer[record.stage, module_of(record.path), record.layer].append(call)
    return by_stage, by_layer


def _totals(calls: Sequence[OwnCall]) -> dict[str, Data]:
    cost = total(call.own for call in calls)
    sums: dict[str, Data] = {name: getattr(cost, name) for name in COST_FIELDS}
    observed = _observed_weight_bytes(calls, cost.weight_bytes)
    return {
        "calls": len(calls), **sums, "flops": cost.flops, "min_bytes": cost.min_bytes, "observed_weight_bytes": observed
    }  # fmt: skip


def _observed_weight_bytes(calls: Sequence[OwnCall], expected: int) -> int | None:
    """Return the weights with the experts that were hit; None where nobody looked."""
    looked = [call.record for call in calls if call.record.observed_weight_bytes is not None]
    if not looked:
        return None
    return expected + sum((record.observed_weight_bytes or 0) - record.cost.weight_bytes for record in looked)


def _averages(calls: Sequence[OwnCall], count: int) -> Data:
    if not count:
        return None
    cost = total(call.own for call in calls)
    sums = {name: getattr(cost, name) for name in (*COST_FIELDS, "flops", "min_bytes")}
    return {name: value / count for name, value in sums.items()}


def _kv_steps(calls: Sequence[OwnCall]) -> list[Data]:
    """Return the cache after every forward: what its layers read is what the cache then holds.

    Bytes are None where what some call inside the forward costs is not known.
    """
    costs, whole = _forward_costs(calls), {call.record.event_id for call in calls if call.is_whole}
    steps: list[Data] = []
    for stage in (Stage.PREFILL, Stage.DECODE):
        for record in model_calls(calls, stage):
            cost = total(costs[record.event_id]) if record.event_id in whole else None
            steps.append(
                {
                    "stage": str(stage),
                    "step": record.step,
                    "kv_len": record.shape.kv_len,
                    "kv_bytes": None if cost is None else cost.kv_read_bytes,
                    "growth_bytes": None if cost is None else cost.kv_write_bytes,
                }
            )
    return steps


def _forward_costs(calls: Sequence[OwnCall]) -> dict[int, list[Cost]]:
    """Return the own costs of the calls of each forward over tokens, by the event id of the forward."""
    parents = {call.record.event_id: call.record.parent_id for call in calls}
    forwards = {call.record.event_id for call in calls if call.record.path == "model"}
    costs: dict[int, list[Cost]] = {at: [] for at in forwards}
    for call in calls:
        at: int | None = call.record.event_id
        while at is not None and at not in forwards:
            at = parents.get(at)
        if at is not None:
            costs[at].append(call.own)
    return costs


def _experts(calls: Iterable[ExpertsCall]) -> list[Data]:
    grouped: dict[tuple[Stage, int], list[ExpertsCall]] = defaultdict(list)
    for call in calls:
        grouped[call.stage, call.layer].append(call)
    return [
        {
            "stage": str(stage),
            "layer": layer,
            "calls": len(found),
            "expected_experts": sum(call.expected_experts for call in found) / len(found),
            "distinct_experts": sum(call.distinct for call in found) / len(found),
            "rows_per_expert": [sum(counts) for counts in zip(*(call.rows_per_expert for call in found), strict=True)],
        }
        for (stage, layer), found in grouped.items()
    ]
