"""A run told in version 2 of the wire, in version 1, and in plain text: the same rows, and what is not known shown."""

from collections.abc import Sequence

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.report.words import verdict
from dsocr_nvtx.roofline.points import Roofline, roofline
from dsocr_nvtx.schema.hardware import datasheet
from dsocr_nvtx.schema.payload import Flag, announcement
from dsocr_nvtx.schema.payload_v1 import WIRE_V1
from dsocr_nvtx.schema.records import COST_FIELDS, LayerKind, Level, Stage, code_of
from tests.builders.tables import Row, payload, payload_v1, trace
from tests.join.test_join_costs import packed

ADDITIVE = [name for name in COST_FIELDS if name != "activation_bytes"]


@frozen
class Call:
    """A hooked call: what it does itself, and the calls inside it."""

    layer: int
    flags: int
    cost: dict[str, int]
    inside: tuple["Call", ...]

    @property
    def inclusive(self) -> dict[str, int]:
        """What it costs with all inside it."""
        return {name: self.cost[name] + sum(one.inclusive[name] for one in self.inside) for name in COST_FIELDS}

    @property
    def path(self) -> str:
        """The site."""
        return f"decoder.{self.layer}" if self.inside else f"decoder.{self.layer}.mlp"


def calls(known: bool) -> st.SearchStrategy[Call]:
    """Draw a call and what is inside it; where all are ``known`` each costs something."""
    amounts = st.fixed_dictionaries({name: st.integers(1, 9) for name in COST_FIELDS})
    flags = st.just(0) if known else st.sampled_from([0, 0, Flag.UNKNOWN, Flag.CONTRADICTED])

    def around(inside: st.SearchStrategy[Call]) -> st.SearchStrategy[Call]:
        return st.builds(Call, st.integers(0, 2), flags, amounts, st.lists(inside, min_size=1, max_size=3).map(tuple))

    return st.recursive(st.builds(Call, st.integers(0, 2), flags, amounts, st.just(())), around, max_leaves=6)


def rows(call: Call, version: int, at: int = 0, event: int = 0) -> list[Row]:
    """Return the call and all inside it as NVTX rows, in the order in which they begin, ten nanoseconds apart."""
    kind = code_of(LayerKind.REST if call.inside else LayerKind.MLP)
    about = {"event_id": event, "stage": code_of(Stage.DECODE), "kind": kind, "level": code_of(Level.OP)}
    about["layer"] = call.layer
    if version == 1:
        own = call.cost["activation_bytes"]
        values = payload_v1(**about, **call.inclusive, own_activation_bytes=own)
    else:
        unknown = call.flags & Flag.UNKNOWN
        values = payload(**about, flags=call.flags, **({} if unknown else call.cost))
    found: list[Row] = []
    for one in call.inside:
        found += rows(one, version, at + 10 * (len(found) + 1), event + len(found) + 1)
    end = at + 10 * (len(found) + 1) - 1
    mine: Row = {"path": call.path, "start_ns": at, "end_ns": end, "payload": packed(values)}
    return [mine, *found]


def told(nvtx: list[Row], marks: Sequence[Row] = ()) -> Joined:
    """Join ranges, of each of which a kernel of two nanoseconds was launched just after its begin."""
    launches = [
        {"start_ns": row["start_ns"], "end_ns": row["start_ns"], "correlation_id": n} for n, row in enumerate(nvtx)
    ]
    kernels = [{"start_ns": 10 * n + 2, "end_ns": 10 * n + 4, "correlation_id": n} for n in range(len(nvtx))]
    return join(trace(nvtx, kernels, launches, marks), "drawn")


def judged(joined: Joined) -> Roofline:
    """Return the roofline on an H200."""
    return roofline(joined.kernels, joined.ranges, datasheet("NVIDIA H200"))


def every(call: Call) -> list[Call]:
    """Return a call and all inside it."""
    return [call, *(found for one in call.inside for found in every(one))]


@given(calls(known=True))
def test_both_versions_of_one_run_are_the_same_tables(call: Call) -> None:
    new, old = told(rows(call, 2)), told(rows(call, 1))
    assert old.ranges.equals(new.ranges)
    assert old.kernels.equals(new.kernels)
    one, other = judged(old), judged(new)
    assert one.rows.equals(other.rows)
    assert one.stages.equals(other.stages)


@given(calls(known=False))
def test_rows_add_up_what_each_call_does_itself(call: Call) -> None:
    """Costs that are not known are no costs: counted, and rates of rows that have much of them are null."""
    found, listed = judged(told(rows(call, 2))), every(call)
    for row in found.rows.to_pylist():
        mine = [c for c in listed if (c.layer, bool(c.inside)) == (row["layer"], row["kind"] == "rest")]
        unknown = [c for c in mine if c.flags & Flag.UNKNOWN]
        for name in COST_FIELDS:
            assert row[name] == sum(c.cost[name] for c in mine if not c.flags & Flag.UNKNOWN)
        contradicted = sum(c.flags == Flag.CONTRADICTED for c in mine)
        assert (row["unknown_calls"], row["contradicted_calls"]) == (len(unknown), contradicted)
        uncertain = len(unknown) + contradicted  # each ran for as long as any other
        assert row["uncertain_ns"] * len(mine) == row["busy_owned_ns"] * uncertain
        for name in ("efficiency", "achieved_tflops", "achieved_gbps", "above_roof"):
            assert (row[name] is None) == bool(uncertain), name
        assert row["kernel_ns"] == 2 * len(mine)


def test_what_is_not_known_is_named_where_the_tables_are_read() -> None:
    known = dict.fromkeys(COST_FIELDS, 5)
    leaf = Call(3, int(Flag.UNKNOWN), known, ())
    joined = told(rows(Call(2, int(Flag.CONTRADICTED), known, (leaf, leaf, Call(1, 0, known, ()))), 2))
    assert joined.accounting.unknown_costs == {"decode": {"decoder.3.mlp": 2}}
    assert joined.accounting.contradicted_costs == {"decode": {"decoder.2": 1}}
    assert joined.ranges["cost_state"].to_pylist() == ["contradicted", "unknown", "unknown", "known"]
    found = judged(joined)
    texts = [one.text for one in caveats(found, joined.accounting) if one.is_grave]
    assert "decode: the cost of 2 calls is not known, and no verdict rests on them: decoder.3.mlp (2)" in texts
    assert "decode: the cost of 1 calls is contradicted, and no verdict rests on them: decoder.2 (1)" in texts
    (stage,) = found.stages.to_pylist()
    assert (stage["bound"], stage["mfu"], stage["mbu"], stage["unknown_calls"]) == ("host", None, None, 2)
    doubt = "the cost of 3 calls, 75% of its busy time, is not known or contradicted"
    assert verdict(stage).startswith("decode is waiting for the host: idle")
    assert verdict(stage).endswith(f"{doubt}, which cannot change that")
    assert f"decode: {doubt}, too little to turn it" in [one.text for one in caveats(found, joined.accounting)]
    stage |= {"bound": None}
    assert verdict(stage).startswith(f"decode is not judged: {doubt}; ")


def test_steps_and_what_lies_between_calls_lose_no_verdict() -> None:
    """A capture of version 1, in plain text alone: only calls were announced, and what they cost is judged."""
    values = payload_v1(stage=code_of(Stage.DECODE), kind=code_of(LayerKind.MLP), level=2, layer=0, weight_bytes=10)
    marks = [{"text": WIRE_V1.announcement("decoder.0.mlp", values), "time_ns": 1}]
    paths = ("decode", "decoder.0.mlp", "decoder.0.rest", "sampling")
    nvtx: list[Row] = [{"path": path, "start_ns": 10 * n, "end_ns": 10 * n + 9} for n, path in enumerate(paths)]
    launches = [
        {"start_ns": row["start_ns"], "end_ns": row["start_ns"], "correlation_id": n} for n, row in enumerate(nvtx)
    ]
    kernels = [{"start_ns": 10 * n + 12, "end_ns": 10 * n + 14, "correlation_id": n} for n in range(len(nvtx))]
    joined = join(trace(nvtx, kernels, launches, marks), "late")
    assert joined.accounting.unknown_costs == {}
    (stage,) = judged(joined).stages.to_pylist()
    assert (stage["unknown_calls"], stage["bound"] is not None, stage["calls"]) == (0, True, 1)


def test_a_mixed_stage_has_rows_of_its_own() -> None:
    values = payload(
        event_id=1, stage=code_of(Stage.MIXED), kind=code_of(LayerKind.MLP), sequences=3, rows=10, keys=700
    )
    marks = [{"text": announcement("decoder.0.mlp", values), "time_ns": 1}]
    nvtx = [{"path": "decoder.0.mlp", "stage": "mixed", "start_ns": 10, "end_ns": 20}]
    launches = [{"start_ns": 12, "end_ns": 13, "correlation_id": 1}]
    joined = join(trace(nvtx, [{"start_ns": 14, "end_ns": 18, "correlation_id": 1}], launches, marks), "mixed")
    (row,) = joined.ranges.to_pylist()
    assert (row["stage"], row["batch"], row["rows"], row["tokens"], row["keys"], row["kv_len"]) == (
        "mixed", 3, 10, 3, 700, 233,
    )  # fmt: skip
    assert judged(joined).stages["stage"].to_pylist() == ["mixed"]
