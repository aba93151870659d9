"""What a run's summary makes of exclusive costs: nothing counted twice, and no bytes of which a part is not known."""

from typing import Any

from dsocr_nvtx.analytic.observed import note_observed, own_calls
from dsocr_nvtx.analytic.summary import run_summary
from dsocr_nvtx.schema.records import Cost, CostState, ExpertsCall, LayerKind, Level, RangeRecord, Stage


def record(event: int, parent: int | None, path: str, **more: Any) -> RangeRecord:
    """Return a record of a decode step of one row and nine keys."""
    usual: dict[str, Any] = {
        "kind": LayerKind.REST, "level": Level.OP, "layer": None, "stage": Stage.DECODE, "step": 0, "dtype": "bfloat16",
        "sequences": 1, "rows": 1, "keys": 9, "pairs": 9, "cost": Cost(), "host_start_ns": 0, "host_end_ns": 1,
        "thread_id": 1,
    }  # fmt: skip
    return RangeRecord(event_id=event, parent_id=parent, path=path, **(usual | more))


def forward(attention: CostState) -> list[RangeRecord]:
    """Return a step, its forward, a layer that owns its experts' weights, and in it attention and a gate."""
    read = Cost(kv_read_bytes=90, kv_write_bytes=10) if attention is CostState.KNOWN else Cost()
    return [
        record(0, None, "decode"),
        record(1, 0, "model"),
        record(2, 1, "decoder.1", layer=1, cost=Cost(weight_bytes=1000)),
        record(3, 2, "decoder.1.attention", layer=1, cost=read, state=attention),
        record(4, 2, "decoder.1.moe.gate", layer=1, cost=Cost(weight_bytes=7)),
    ]


def test_experts_observed_in_a_container_replace_the_expected_ones_in_every_sum() -> None:
    """Six experts of 100 bytes were expected and four hit, whose cost lies in the layer around other calls."""
    records = forward(CostState.KNOWN)
    seen = ExpertsCall(
        event_id=2, stage=Stage.DECODE, step=0, layer=1, rows=1, rows_per_expert=(1, 1, 1, 1, 0, 0),
        expected_experts=6.0, expected_weight_bytes=600, expert_bytes=100,
    )  # fmt: skip
    note_observed(records, [seen])
    told: Any = run_summary(own_calls(records), pages=1, experts=[seen])
    assert told["stages"]["decode"]["weight_bytes"] == 1007
    assert told["stages"]["decode"]["observed_weight_bytes"] == 807


def test_the_cache_of_a_forward_is_told_where_all_inside_it_is_known() -> None:
    """Bytes are those of the calls inside, each once; None where a call inside, however deep, is not known."""
    for state, read, written in ((CostState.KNOWN, 90, 10), (CostState.UNKNOWN, None, None)):
        told: Any = run_summary(own_calls(forward(state)), pages=1)
        (step,) = told["kv_steps"]
        assert (step["kv_bytes"], step["growth_bytes"]) == (read, written)
