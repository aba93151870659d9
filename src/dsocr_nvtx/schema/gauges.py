"""Arrow schemas of what is measured on a machine rather than in a run: its ceilings, its power, its energy.

They stand apart from `dsocr_nvtx.schema.tables`, which holds what a run and a report become; the rules are the same.
"""

import pyarrow as pa

from dsocr_nvtx.schema.tables import WORD, column

_I64, _F64 = pa.int64(), pa.float64()

_HELD = (
    column("sm_clock_mhz", _F64, "MHz", "median SM clock while it ran", null=True),
    column("memory_clock_mhz", _F64, "MHz", "median memory clock while it ran", null=True),
    column("power_w", _F64, "W", "mean power while it ran", null=True),
    column("temperature_c", _F64, "degC", "highest temperature while it ran", null=True),
    column(
        "throttle", WORD, "", "reasons that held the clocks down, joined by +; empty where there was none", null=True
    ),
)

CEILINGS = pa.schema(
    [
        column("quantity", WORD, "", "matmul, vector, read, write, copy, l2_read, or a time of launching"),
        column("dtype", WORD, "", "element type", null=True),
        column("regime", WORD, "", "burst: the first 100 ms after a pause; sustained: the later half of a long run"),
        column("shape", WORD, "", "MxNxK of a product, else empty"),
        column(
            "bytes",
            _I64,
            "B",
            "memory that one call touches: read plus written for a copy; 0 where it is beside the point",
        ),
        column("kernel", WORD, "", "what ran"),
        column("median", _F64, "", "median over windows, in the row's unit"),
        column("spread", _F64, "", "half the distance between the quartiles, in the row's unit"),
        column("unit", WORD, "", "FLOP/s, B/s, ns or 1/s"),
        column("windows", _I64, "", "timed windows, each between two CUDA events"),
        column("seconds", _F64, "s", "time that the windows span"),
        *_HELD,
        column("is_roof", pa.bool_(), "", "the row that `join --ceilings` takes as the roof of its quantity"),
    ]
)
"""``ceilings -o``: one row per measurement. Metadata: device, uuid, driver, cuda, torch, sm_count, l2_bytes, date."""

LADDER = pa.schema(
    [
        column("pid", _I64, "", "process id"),
        column("device", pa.int32(), "", "CUDA device ordinal", null=True),
        column("stage", WORD, "", "vision, prefill or decode"),
        column("rung", WORD, "", "now, no_stall, graph, fused or roof"),
        column("steps", _I64, "", "steps of the stage"),
        column("tokens", _I64, "", "tokens of the stage"),
        column("total_ns", _F64, "ns", "time of the stage on this rung"),
        column("low_ns", _F64, "ns", "the same with the smallest gaps that the capture or the ceilings allow"),
        column("high_ns", _F64, "ns", "the same with the largest"),
        column("step_ns", _F64, "ns", "total_ns / steps", null=True),
        column("token_ns", _F64, "ns", "total_ns / tokens", null=True),
        column("speedup", _F64, "", "total_ns of rung now / total_ns of this one", null=True),
        column("operations", _I64, "", "GPU operations that still run"),
        column("gap_ns", _F64, "ns", "gap assumed between two of them", null=True),
        column("assumes", WORD, "", "what has to hold for this time to be reached"),
    ]
)
"""`dsocr-nvtx ladder -o`: one row per stage and rung, from what was measured to the roof."""

POWER = pa.schema(
    [
        column("time_ns", _I64, "ns", "host clock (perf_counter), as host_start_ns of ranges.arrow"),
        column("power_mw", _I64, "mW", "power drawn", null=True),
        column("energy_mj", _I64, "mJ", "total energy counter", null=True),
        column("sm_clock_mhz", _I64, "MHz", "SM clock", null=True),
        column("memory_clock_mhz", _I64, "MHz", "memory clock", null=True),
        column("temperature_c", _I64, "degC", "temperature", null=True),
        column("throttle", WORD, "", "reasons that held the clocks down, joined by +", null=True),
    ]
)
"""``power.arrow`` of a run directory: one row per sample, null where the driver does not say."""

ENERGY = pa.schema(
    [
        column("stage", WORD, "", "vision, prefill or decode"),
        column("source", WORD, "", "run: what was recorded; repeated: the stage alone, repeated after the recording"),
        column("seconds", _F64, "s", "time in the stage"),
        column("tokens", _I64, "", "tokens decoded or prefilled, or image tokens made, in that time"),
        column("joules", _F64, "J", "energy drawn; null where unresolved", null=True),
        column(
            "uncertainty_j",
            _F64,
            "J",
            "of joules: a step of the counter at either end of each span, in quadrature",
            null=True,
        ),
        column("tokens_per_joule", _F64, "1/J", "tokens / joules", null=True),
        *_HELD,
        column("verdict", WORD, "", "resolved, or unresolved: with the reason"),
    ]
)
"""``energy.arrow`` of a run directory: one row per stage and source."""
