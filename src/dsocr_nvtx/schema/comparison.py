"""Arrow schemas of what `diff` and `gate` write; the rules are those of `dsocr_nvtx.schema.tables`."""

import pyarrow as pa

from dsocr_nvtx.schema.tables import WORD, column

_I64, _I32, _F64 = pa.int64(), pa.int32(), pa.float64()


def _time(name: str, what: str) -> tuple[pa.Field, ...]:
    share = f"as a share of the typical {what} time of A"
    edge = f"{share}; noise and allowance counted"
    return (
        column(f"a_{name}_ns", _F64, "ns", f"{what} time of A per unit: mean over the compared steps"),
        column(f"b_{name}_ns", _F64, "ns", f"{what} time of B per unit: mean over the compared steps"),
        column(f"{name}_change", _F64, "", f"typical change, B less A, {share}", null=True),
        column(f"{name}_low", _F64, "", f"the change is above this, {edge}", null=True),
        column(f"{name}_high", _F64, "", f"the change is below this, {edge}", null=True),
        column(f"{name}_verdict", WORD, "", f"better, worse, same or inconclusive, of {what} time alone"),
    )


def _part(name: str, what: str) -> pa.Field:
    return column(f"{name}_contribution_ns", _I64, "ns", f"of contribution_ns: {what}")


COMPARISON = pa.schema(
    [
        column("stage", WORD, "", "vision, prefill, decode or unknown"),
        column("module", WORD, "", "sam, clip, projector, embed, decoder, lm_head; model for what spans them"),
        column("kind", WORD, "", "what it computes; rest: a container's own work"),
        column("layer", _I32, "", "layer index within the module", null=True),
        column("phase", WORD, "", "run; capture: calls captured into a CUDA graph, once a run"),
        column("verdict", WORD, "", "better, worse, same or inconclusive: B against A"),
        column("moved", WORD, "", "what the verdict is about: busy, idle, or both, the larger first"),
        column("reason", pa.string(), "", "what the verdict rests on"),
        column("present", WORD, "", "both; A or B: the row is only there"),
        column("unit", WORD, "", "what times are per: step; token where steps do not handle equally many"),
        column("steps", _I64, "", "paired steps that are compared"),
        column("a_calls", _F64, "", "calls per unit in A"),
        column("b_calls", _F64, "", "calls per unit in B"),
        column("a_launches", _F64, "", "GPU operations per unit in A"),
        column("b_launches", _F64, "", "GPU operations per unit in B"),
        *_time("busy", "owned busy"),
        *_time("idle", "owned idle"),
        *_time("wall", "owned wall"),
        column("peers", _I64, "", "rows of equal kind, shape and launches in other layers"),
        column("peers_change", _F64, "", "median change of their busy time, as a share of both runs' mean", null=True),
        column("contribution_ns", _I64, "ns", "what it adds to its stage's change of wall per unit; adds up exactly"),
        _part("busy", "owned busy time"),
        _part("launch", "idle inside launch calls"),
        _part("sync", "idle inside synchronising calls"),
        _part("memory", "idle inside allocation and copy calls"),
        _part("host", "idle in host code outside CUDA calls"),
        _part("queued", "idle although the next launch call had long returned"),
        _part("other", "idle of no recorded cause"),
    ]
)  # fmt: skip
"""``diff -o``: disjoint rows, one per stage, module, kind, layer and phase of either run."""

GATE = pa.schema(
    [
        column("rule", pa.string(), "", "as given"),
        column("outcome", WORD, "", "pass, fail or inconclusive"),
        column("unit", WORD, "", "of the values: ns, tokens/s, or none for ratios and counts; times are per step"),
        column("baseline", _F64, "", "value in the baseline; null for a rule without one", null=True),
        column("value", _F64, "", "value in the run under test, in the row's unit; null: no time", null=True),
        column(
            "measured",
            _F64,
            "",
            "what is held against the bound: relative change, or the value itself; null: no limit",
            null=True,
        ),
        column("low", _F64, "", "measured is above this, noise and allowance counted; null: no limit", null=True),
        column("high", _F64, "", "measured is below this, noise and allowance counted; null: no limit", null=True),
        column("bound", _F64, "", "the rule's bound, as measured: a share, or a value"),
        column(
            "resolution",
            _F64,
            "",
            "how far off the bound what is measured must lie here for the rule to be decided; null: no limit",
            null=True,
        ),
        column("reason", pa.string(), "", "why it is inconclusive or fails, or what its value is of"),
    ]
)
"""``gate -o``: one row per rule."""
