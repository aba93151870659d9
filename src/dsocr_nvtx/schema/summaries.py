"""Arrow schemas of what `join` tells of kernels and CUDA calls; the rules are those of `dsocr_nvtx.schema.tables`."""

import pyarrow as pa

from dsocr_nvtx.schema.tables import WORD, column

_I64, _F64 = pa.int64(), pa.float64()

KERNELS_SUMMARY = pa.schema(
    [
        column("stage", WORD, "", "stage of the hooked calls that launched it; null for what none did", null=True),
        column("short_name", WORD, "", "what it computes and on which type: the name without template machinery"),
        column("class", WORD, "", "as in KERNELS"),
        column("launches", _I64, "", "GPU operations of this name in the stage"),
        column("total_ns", _I64, "ns", "plain sum of their durations"),
        column("busy_owned_ns", _I64, "ns", "time in which one of them was the first-started of what ran"),
        column("stage_share", _F64, "", "busy_owned_ns / that of all operations of the stage", null=True),
        column("mean_ns", _F64, "ns", "total_ns / launches"),
        column("spread_ns", _F64, "ns", "standard deviation of their durations"),
        column("shortest_ns", _I64, "ns", "shortest duration"),
        column("longest_ns", _I64, "ns", "longest duration"),
        column(
            "waves", _F64, "", "mean blocks of a grid / SMs of the device; null where unknown or no kernel", null=True
        ),
        column("below_a_wave", _I64, "", "launches whose grid has fewer blocks than the device has SMs", null=True),
        column("modules", pa.list_(pa.string()), "", "modules that launched it, as in ROOFLINE"),
        column("kinds", pa.list_(pa.string()), "", "kinds of the calls that launched it"),
        column("layers", pa.list_(pa.int32()), "", "layers that launched it"),
        column("name", WORD, "", "full name"),
    ]
)
"""``kernels_summary.arrow``: one row per stage and name of GPU operations, the longest total first."""

HOST_CALLS = pa.schema(
    [
        column("stage", WORD, "", "stage of the innermost hooked call open when it was made; null for none", null=True),
        column("step", _I64, "", "step of that call", null=True),
        column("call", WORD, "", "CUDA API function"),
        column("calls", _I64, "", "how often it was called in the step"),
        column("total_ns", _I64, "ns", "how long those calls lasted on their threads"),
        column("longest_ns", _I64, "ns", "the longest of them"),
    ]
)
"""``host_calls.arrow``: one row per stage, step and CUDA API function."""

API_CALLS = pa.schema(
    [
        column("pid", _I64, "", "process id"),
        column("tid", _I64, "", "calling thread"),
        column("start_ns", _I64, "ns", "call"),
        column("end_ns", _I64, "ns", "return"),
        column("call", WORD, "", "CUDA API function"),
    ]
)
"""``api_calls.arrow``: every CUDA API call of the report, on the clock of its GPU operations."""
