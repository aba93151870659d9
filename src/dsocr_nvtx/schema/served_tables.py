"""Arrow schemas of what `join` makes of a serving engine's marks; the rules are those of `dsocr_nvtx.schema.tables`."""

import pyarrow as pa

from dsocr_nvtx.schema.tables import WORD, column

_I64, _I32 = pa.int64(), pa.int32()

_SPLIT = {
    "rows": ("", "query rows of all sequences"),
    "keys": ("", "keys in the cache once the step is done, of all sequences"),
    "pairs": ("", "attention pairs that the causal mask leaves, of all sequences"),
    "tensor_flops": ("FLOP", "of all ranges inside but those of stage vision, as in ROOFLINE"),
    "vector_flops": ("FLOP", "likewise"),
    "kv_read_bytes": ("B", "likewise"),
    "kv_write_bytes": ("B", "likewise"),
}
COSTS = ("tensor_flops", "vector_flops", "kv_read_bytes", "kv_write_bytes")
"""Costs of a step that are its sequences' own; weights are read for all of them together."""


def _split(name: str) -> tuple[pa.Field, pa.Field]:
    unit, text = _SPLIT[name]
    is_cost = name in COSTS
    why = "; null where costs do not follow from sequences" if is_cost else ""
    return (
        column(name, _I64, unit, text + ("; null where a cost is not known" if is_cost else ""), null=is_cost),
        column(f"{name}_prefill", _I64, unit, f"of {name}: that of sequences in prefill{why}", null=is_cost),
    )


SERVED_STEPS = pa.schema(
    [
        column("pid", _I64, "", "process id"),
        column("device", _I32, "", "CUDA device ordinal on which most of the step ran", null=True),
        column("event_id", _I64, "", "range of the step"),
        column("stage", WORD, "", "vision, prefill, decode, or mixed: both in one forward"),
        column("step", _I64, "", "how many earlier steps the stage had"),
        column("start_ns", _I64, "ns", "begin of the step's range"),
        column("end_ns", _I64, "ns", "end of the step's range"),
        column("sequences_prefill", _I64, "", "sequences that are prefilled"),
        column("sequences_decode", _I64, "", "sequences that decode"),
        *(field for name in _SPLIT for field in _split(name)),
        column("padded_rows", _I64, "", "rows that the forward is run with; null where not told", null=True),
        column("busy_owned_ns", _I64, "ns", "owned busy time of the step and all ranges inside"),
        column("idle_owned_ns", _I64, "ns", "owned idle time of the step and all ranges inside"),
        column("wall_ns", _I64, "ns", "busy_owned_ns + idle_owned_ns"),
        column("agrees", pa.bool_(), "", "the model's range inside tells the same sequences, rows and keys", null=True),
        column("requests", pa.list_(pa.string()), "", "requests of its sequences, in the scheduler's order"),
    ]
)
"""``served_steps.arrow``: one row per step of a serving engine that told its sequences, in order of time."""


def _by(key: str) -> pa.DataType:
    """Return the type of times by something."""
    return pa.list_(pa.struct([(key, pa.string()), ("ns", _I64)]))


REQUESTS = pa.schema(
    [
        column("name", pa.string(), "", "request, as its marks name it"),
        column("pid", _I64, "", "process that took it in, else that of its first step"),
        column("device", _I32, "", "CUDA device ordinal of its steps", null=True),
        column("arrived_ns", _I64, "ns", "when it arrived", null=True),
        column("preprocessed_ns", _I64, "ns", "when its images and text were ready", null=True),
        column("queued_ns", _I64, "ns", "when the engine had it", null=True),
        column("first_step_ns", _I64, "ns", "begin of the first step that works on it", null=True),
        column("first_token_ns", _I64, "ns", "end of the step that ends its prefill", null=True),
        column("finished_ns", _I64, "ns", "when it was done", null=True),
        column("latency_ns", _I64, "ns", "finished_ns - arrived_ns", null=True),
        column("waiting_ns", _I64, "ns", "first_step_ns - arrived_ns", null=True),
        column("steps", _I64, "", "steps that work on it"),
        column("prompt_rows", _I64, "", "rows that were prefilled for it"),
        column("tokens", _I64, "", "tokens that it was given, as its last mark tells", null=True),
        column("busy_own_ns", _I64, "ns", "of latency_ns: the device is busy with steps that work on it", null=True),
        column("busy_others_ns", _I64, "ns", "of latency_ns: the device is busy with anything else", null=True),
        column("idle_ns", _I64, "ns", "of latency_ns: the device is idle", null=True),
        column(
            "busy_own",
            _by("stage"),
            "ns",
            "busy_own_ns by stage: that of the range, so vision inside a prefill is vision",
        ),
        column(
            "idle", _by("owner"), "ns", "idle_ns by owner: host work by its path, else the step's stage, or outside"
        ),
        column("later_busy_others_ns", _I64, "ns", "of busy_others_ns: since its first step", null=True),
        column("later_idle", _by("owner"), "ns", "of idle: since its first step"),
    ]
)
"""``requests.arrow``: one row per request of a serving engine, in order of arrival. Busy and idle time of its device
are all of its latency; so are what is before its first step, and the times since."""
