"""Arrow schemas of many reports joined: rows added up over ranks, how far the ranks lie apart, and why.

They stand apart from `dsocr_nvtx.schema.tables`, which holds what one report becomes; the rules are the same.
"""

import pyarrow as pa

from dsocr_nvtx.schema.tables import ROOFLINE, STAGES, WORD, column

_I64, _I32, _F64 = pa.int64(), pa.int32(), pa.float64()
_PLACE = ("rank", "gpu_uuid", "pid", "device")

_SPREAD = (
    column("reports", _I64, "", "reports that have the row"),
    column("ranks", _I64, "", "processes that have the row: each of them is a rank"),
    column("slowest_report", WORD, "", "report of the rank with the most wall time in the row"),
    column("slowest_rank", _I32, "", "that rank"),
    column("slowest_wall_ns", _I64, "ns", "its wall_ns"),
    column("median_wall_ns", _I64, "ns", "median of the ranks' wall_ns"),
    column("fastest_wall_ns", _I64, "ns", "least of the ranks' wall_ns"),
    column("behind_ns", _I64, "ns", "slowest_wall_ns - median_wall_ns"),
    column("imbalance", _F64, "", "slowest_wall_ns / mean of the ranks' wall_ns", null=True),
)


def _merged(schema: pa.Schema) -> pa.Schema:
    """Return the schema of one report's rows added up over ranks: no place, and the spread behind."""
    same = [
        item for item in schema if item.name not in (*_PLACE, "above_roof", "median_step_ns", "dilation", "throttle")
    ]
    above = column("above_roof", _I64, "", "ranks whose row is a contradiction, above the roofs at the highest clock")
    return pa.schema([*same, above, *_SPREAD])


MERGED_ROOFLINE = _merged(ROOFLINE)
"""``roofline.arrow`` of a fleet: rows of ROOFLINE added up over ranks; ``bound`` is that of most wall time."""

MERGED_STAGES = pa.schema(
    [
        *_merged(STAGES),
        column("slowest_cause", WORD, "", "why the slowest rank is slow: work, device or waiting; none if it is not"),
    ]
)
"""``stages.arrow`` of a fleet: rows of STAGES added up over ranks; MFU and MBU weighted by wall time."""

FLEET_RANKS = pa.schema(
    [
        column("report", WORD, "", "name of the report, as in the partitions"),
        column("rank", _I32, "", "rank of the process; 0 where the report names none"),
        column("world_size", _I32, "", "ranks that there are by the report", null=True),
        column("host", WORD, "", "host of the process", null=True),
        column("gpu_uuid", WORD, "", "identity of the GPU", null=True),
        column("pid", _I64, "", "process id"),
        column("stage", WORD, "", "vision, prefill, decode or unknown"),
        column("pages", _I64, "", "pages done, by the rank's run directory", null=True),
        column("steps", _I64, "", "steps of the stage"),
        column("tokens", _I64, "", "tokens of the stage"),
        column("launches", _I64, "", "GPU operations"),
        column("wall_ns", _I64, "ns", "busy_owned_ns + idle_owned_ns"),
        column("busy_owned_ns", _I64, "ns", "busy time owned"),
        column("idle_owned_ns", _I64, "ns", "idle time owned"),
        column("roofline_ns", _I64, "ns", "least time of the rank's work"),
        column("usual_wall_ns", _I64, "ns", "median busy time + median idle time of the ranks in the stage"),
        column("slowdown", _F64, "", "wall_ns / usual_wall_ns", null=True),
        column("usual_busy_ns", _I64, "ns", "median busy time of the ranks, in proportion to this one's least time"),
        column("busy_slowdown", _F64, "", "busy_owned_ns / usual_busy_ns", null=True),
        column("work_ns", _I64, "ns", "of wall_ns - usual_wall_ns: more (or less) work than usual"),
        column("device_ns", _I64, "ns", "of it: the GPU busy for longer than usual with that work"),
        column("waiting_ns", _I64, "ns", "of it: the GPU idle for longer than usual over so many steps"),
        column("sm_clock_mhz", _F64, "MHz", "median SM clock of the run, by the rank's run directory", null=True),
        column("throttle", WORD, "", "what held the clocks down, by the rank's run directory", null=True),
        column("cause", WORD, "", "work, device or waiting, of a rank that is slow by wall or busy time; else none"),
        column("rule", WORD, "", "what decided the cause"),
    ]
)
"""``ranks.arrow`` of a fleet: one row per rank and stage. The three parts add up to wall_ns - usual_wall_ns."""
