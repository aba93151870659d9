"""Every Arrow schema: names, units, descriptions; and the one way tables reach and leave disk.

Field metadata carries ``unit`` and ``description`` (with the denominator where a column is a ratio); schema metadata
carries provenance. ``SCHEMA_VERSION`` grows when a column is renamed, removed or changes meaning; adding one does not.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dsocr_nvtx.schema.payload import READ_FIELDS
from dsocr_nvtx.schema.records import COST_FIELDS
from dsocr_nvtx.schema.values import values_of

SCHEMA_VERSION = 2
"""History: 1, the first. 2: costs of RANGES and MEASURED are exclusive, and own_activation_bytes is gone."""


def column(name: str, kind: pa.DataType, unit: str, description: str, *, null: bool = False) -> pa.Field:
    """Return a field that says what it holds; ``null`` where the value can be unknown."""
    return pa.field(name, kind, nullable=null, metadata={"unit": unit, "description": description})


_I64, _I32, _F64 = pa.int64(), pa.int32(), pa.float64()
WORD = pa.dictionary(pa.int32(), pa.string())
"""Text that repeats: names, stages, kinds."""

PAYLOAD = pa.struct([(name, _I64) for name in READ_FIELDS])
"""A range's payload, of any version; in memory each field may take fewer bytes, where its numbers fit."""

_COST_TEXT: Mapping[str, tuple[str, str]] = {
    "tensor_flops": ("FLOP", "matrix products and convolutions the algorithm needs, 2 per multiply-add, causal-exact"),
    "tensor_flops_unmasked": ("FLOP", "the same with full attention matrices, as FlopCounterMode counts"),
    "vector_flops": ("FLOP", "norms, softmax, activations, rotary, residuals, routing"),
    "weight_bytes": ("B", "lower bound: each weight the call needs, read once (routed experts: distinct ones hit)"),
    "activation_bytes": ("B", "lower bound: inputs read once, outputs written once"),
    "kv_read_bytes": ("B", "lower bound: keys and values read from the cache"),
    "kv_write_bytes": ("B", "keys and values appended to the cache"),
    "op_bytes": ("B", "what this implementation moves, operator by operator"),
}
COST_COLUMNS: tuple[pa.Field, ...] = tuple(column(name, _I64, *_COST_TEXT[name]) for name in COST_FIELDS)

_PID = column("pid", _I64, "", "process id")
_RANK = column(
    "rank", _I32, "", "rank of the process; 0 where the report names none (metadata `ranks` has what it says)"
)
_GPU = column("gpu_uuid", WORD, "", "identity of the GPU", null=True)
_EVENT = column("event_id", _I64, "", "hooked call, unique within its process; negative where the report does not say")
_SHARED = (
    column("path", WORD, "", "module path, as the NVTX message"),
    column(
        "module",
        WORD,
        "",
        "first part of the path: sam, clip, projector, embed, decoder, lm_head; model for stages; "
        "all of it for host work",
    ),
    column("kind", WORD, "", "what it computes; rest: a container's own work; host: what the host does besides"),
    column("level", WORD, "", "stage, layer or op"),
    column("stage", WORD, "", "vision, prefill, decode, mixed, host (work outside steps) or unknown"),
    column("step", _I64, "", "how many earlier steps this stage had"),
    column("layer", _I32, "", "layer index within the module", null=True),
    column("dtype", WORD, "", "element type"),
    column("batch", _I64, "", "sequences, images or tiles"),
    column("tokens", _I64, "", "rows of each batch element; where they differ, the mean, rounded down"),
    column("kv_len", _I64, "", "keys of each batch element, this call's own included, likewise; 0 without a cache"),
)
_CALL = (
    *_SHARED,
    column("rows", _I64, "", "query rows of all sequences together"),
    column("keys", _I64, "", "keys of all sequences together; 0 without a cache"),
    column("pairs", _I64, "", "attention pairs of all sequences, without a mask; 0 where not told"),
    column("cost_state", WORD, "", "known; contradicted by tensors that were seen; unknown: costs are 0, and no costs"),
)
_OBSERVED = column("observed_weight_bytes", _I64, "B", "weight_bytes with the experts that were hit", null=True)
_OWN = column("own_activation_bytes", _I64, "B", "activation_bytes left when the ranges inside are reported apart")

RANGES = pa.schema(
    [
        _EVENT,
        column("parent_id", _I64, "", "event_id of the hooked call around it", null=True),
        *_CALL,
        *COST_COLUMNS,
        column("host_start_ns", _I64, "ns", "host clock (perf_counter) at entry"),
        column("host_end_ns", _I64, "ns", "host clock at exit"),
        column("device_ns", _I64, "ns", "between the CUDA events around the call", null=True),
        column("thread_id", _I64, "", "native id of the calling thread"),
        _OBSERVED,
        column(
            "origin", WORD, "", "call; captured: into a CUDA graph, so it ran nothing; replayed: by one launch of it"
        ),
    ]
)
"""``ranges.arrow`` of a run directory: one row per hooked call, its costs exclusive."""

SINCE_VERSION_2 = tuple(item.name for item in _CALL if item not in _SHARED)
"""Columns of RANGES and MEASURED that version 1 lacks."""
RANGES_READ = pa.schema([*RANGES, _OWN])
"""What readers know in ``ranges.arrow``: that of version 1 has inclusive costs, and own activations."""

EXPERTS = pa.schema(
    [
        column("event_id", _I64, "", "hooked call in which the experts' cost lies"),
        column("stage", WORD, "", "prefill, decode or unknown"),
        column("step", _I64, "", "how many earlier steps this stage had"),
        column("layer", _I32, "", "decoder layer"),
        column("rows", _I64, "", "rows that were routed: batch times tokens"),
        column("expected_experts", _F64, "", "distinct experts hit on average under uniform routing"),
        column("distinct_experts", _I64, "", "distinct experts hit"),
        column("expected_weight_bytes", _I64, "B", "weights of the expected experts"),
        column("observed_weight_bytes", _I64, "B", "weights of the experts hit, each read once"),
        column("rows_per_expert", pa.list_(_I32), "", "rows that each expert got"),
    ]
)
"""``experts.arrow`` of a run directory: one row per call of routed experts, as observed."""

NVTX = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "thread id"),
        column("start_ns", _I64, "ns", "push"),
        column("end_ns", _I64, "ns", "pop; the last instant of the trace where the range was never closed"),
        column("path", WORD, "", "message"),
        column("stage", WORD, "", "category"),
        column("payload", PAYLOAD, "", "`READ_FIELDS`, from the binary payload", null=True),
        column("json", PAYLOAD, "", "the same, from the payload printed as JSON", null=True),
    ]
)
"""Push/pop ranges of the ``dsocr`` domain."""

REPLAYS = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "thread that launched the graph"),
        column("time_ns", _I64, "ns", "just before the launch, the same for all that it repeats"),
        column("captured", _I64, "", "row of NVTX: the range that was open when the graph was captured"),
        column("parent_id", _I64, "", "event_id of the range around it", null=True),
        column("stage", WORD, "", "stage of the launch"),
        column("payload", PAYLOAD, "", "`READ_FIELDS`"),
    ]
)
"""Calls that launches of CUDA graphs repeated, where whoever recorded the trace has written them out."""

EVERY_RANGE = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "thread that opened it"),
        column("end_tid", _I64, "", "thread that closed it, where that is another", null=True),
        column("start_ns", _I64, "ns", "begin"),
        column("end_ns", _I64, "ns", "end", null=True),
        column("name", WORD, "", "domain:text"),
        column("style", WORD, "", "PushPop or StartEnd"),
        column("range_id", _I64, "", "number of the report's NVTX event, from 1"),
    ]
)
"""NVTX ranges of any domain."""

PROJECTED = pa.schema(
    [
        column("name", WORD, "", "domain:text, as nsys prints it"),
        column("style", WORD, "", "PushPop or StartEnd"),
        _PID,
        column("tid", _I64, "", "thread that opened it"),
        column("start_ns", _I64, "ns", "begin on the thread"),
        column("duration_ns", _I64, "ns", "length on the thread"),
        column("projected_start_ns", _I64, "ns", "begin of the first GPU operation launched inside"),
        column("projected_duration_ns", _I64, "ns", "from there to the end of the last one"),
        column("gpu_ops", _I64, "", "API calls inside that made GPU work"),
        column("level", _I32, "", "ranges of the thread that contain it"),
        column("children", _I64, "", "ranges with GPU work that lie directly in it"),
        column("range_id", _I64, "", "number of the report's NVTX event, from 1, as nsys has it"),
        column("parent_id", _I64, "", "range_id of the range that it lies directly in", null=True),
        column(
            "range_stack",
            pa.string(),
            "",
            "range_id of all that contain it and its own; null where over 64 do",
            null=True,
        ),
    ]
)
"""What `project` writes: ranges with GPU work, as ``nsys stats -r nvtx_gpu_proj_trace`` gives them."""

ANNOUNCEMENTS = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "thread id"),
        column("time_ns", _I64, "ns", "when it was made"),
        column("text", pa.string(), "", "the announcement, as `dsocr_nvtx.schema.payload` writes it"),
    ]
)
"""What marks of ours say, in plain text."""

COSTS = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "thread id"),
        column("time_ns", _I64, "ns", "from when on it holds"),
        column("path", WORD, "", "module path"),
        column("values", PAYLOAD, "", "`READ_FIELDS` of the next range of that path and stage on the thread"),
        column("increments", PAYLOAD, "", "what one key more in the cache adds to each; null: stays", null=True),
    ]
)
"""Costs that were announced."""

HITS = pa.schema(
    [
        _PID,
        column("event_id", _I64, "", "hooked call in which the experts' cost lies"),
        column("step", _I64, "", "how many earlier steps the stage had"),
        column("expected_bytes", _I64, "B", "of the call's weight_bytes: the expected experts"),
        column("observed_bytes", _I64, "B", "weights of the experts hit"),
    ]
)
"""Calls of routed experts whose experts were observed."""

LAUNCHES = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "calling thread"),
        column("start_ns", _I64, "ns", "call"),
        column("end_ns", _I64, "ns", "return"),
        column("correlation_id", _I64, "", "ties the call to its GPU operations, within the process"),
        column("name", WORD, "", "API function"),
    ]
)
"""CUDA API calls."""

OPERATIONS = pa.schema(
    [
        _PID,
        column("device", _I32, "", "CUDA device ordinal"),
        column("stream", _I64, "", "stream id"),
        column("start_ns", _I64, "ns", "begin of execution"),
        column("end_ns", _I64, "ns", "end of execution"),
        column("correlation_id", _I64, "", "API call that launched it", null=True),
        column("operation", WORD, "", "kernel, memcpy, memset or graph"),
        column("name", WORD, "", "kernel name, or the direction of a copy"),
        column("blocks", _I64, "", "thread blocks in the grid; 0 for what is not a kernel"),
        column("threads", _I32, "", "threads per block"),
        column("bytes", _I64, "B", "bytes copied or set; 0 for kernels"),
        column("graph_node_id", _I64, "", "node of the replayed CUDA graph", null=True),
    ]
)
"""GPU operations."""

GRAPH_NODES = pa.schema(
    [
        _PID,
        column("tid", _I64, "", "thread that captured the node"),
        column("time_ns", _I64, "ns", "when the node was made"),
        column("graph_node_id", _I64, "", "node"),
        column("original_node_id", _I64, "", "the node it was cloned from", null=True),
    ]
)
"""CUDA graph nodes, as they were captured or cloned."""

KERNELS = pa.schema(
    [
        *OPERATIONS,
        column("event_id", _I64, "", "innermost hooked call open when it was launched", null=True),
        column("stage", WORD, "", "stage of that call", null=True),
        column("step", _I64, "", "step of that call", null=True),
        column("path", WORD, "", "module of that call", null=True),
        column("launch_tid", _I64, "", "thread that made the API call", null=True),
        column("launch_ns", _I64, "ns", "when the API call was made", null=True),
        column(
            "bucket", WORD, "", "attributed, or why not: outside, other_thread, no_runtime_record, graph_before_trace"
        ),
        column("class", WORD, "", "matmul, attention, convolution, norm_activation, data_movement or other"),
        column("rule", WORD, "", "the part of the name that decided the class"),
        column("busy_owned_ns", _I64, "ns", "time in which it was the first-started of the operations running"),
        _RANK,
        _GPU,
    ]
)
"""``kernels.arrow``: every GPU operation once, and the call it belongs to."""

_TIMES = (
    column("launches", _I64, "", "GPU operations"),
    column("kernel_ns", _I64, "ns", "plain sum of their durations"),
    column("busy_ns", _I64, "ns", "union of their times; not additive where rows overlap"),
    column("busy_owned_ns", _I64, "ns", "busy time owned; an instant belongs to the operation that started first"),
    column(
        "idle_owned_ns",
        _I64,
        "ns",
        "device idle time owned: by the range open on the thread of the next launch, else by host work elsewhere",
    ),
    column("idle_launch_ns", _I64, "ns", "of idle_owned_ns: inside a launch call"),
    column("idle_sync_ns", _I64, "ns", "of idle_owned_ns: inside a synchronising call"),
    column("idle_memory_ns", _I64, "ns", "of idle_owned_ns: inside an allocation or copy call"),
    column("idle_host_ns", _I64, "ns", "of idle_owned_ns: host code outside CUDA calls"),
    column("idle_queued_ns", _I64, "ns", "of idle_owned_ns: later than 5 us after the next launch call returned"),
    column("wall_ns", _I64, "ns", "busy_owned_ns + idle_owned_ns"),
)

MEASURED = pa.schema(
    [
        _PID,
        _EVENT,
        column("parent_id", _I64, "", "event_id of the hooked call around it", null=True),
        *_CALL,
        *COST_COLUMNS,
        column("tid", _I64, "", "calling thread"),
        column("start_ns", _I64, "ns", "push"),
        column("end_ns", _I64, "ns", "pop"),
        column(
            "origin",
            WORD,
            "",
            "call; captured: into a CUDA graph, ran nothing; replayed: by one launch of it; elsewhere: its parent's "
            "time on another GPU than the parent's own",
        ),
        column("device", _I32, "", "CUDA device ordinal", null=True),
        column("host_ns", _I64, "ns", "time of the range on its thread, less that of the ranges inside"),
        *_TIMES,
        column("inclusive_launches", _I64, "", "launches, those of the ranges inside included"),
        column("inclusive_kernel_ns", _I64, "ns", "kernel_ns, that of the ranges inside included"),
        _OBSERVED,
        _RANK,
        _GPU,
    ]
)
"""``ranges.arrow`` of a join: one row per hooked call; times and costs are its own unless named inclusive."""

_RATES = (
    column("achieved_tflops", _F64, "TFLOP/s", "tensor_flops / busy_owned_ns", null=True),
    column("achieved_gbps", _F64, "GB/s", "lower-bound bytes / busy_owned_ns", null=True),
    column("intensity", _F64, "FLOP/B", "(tensor_flops + vector_flops) / lower-bound bytes", null=True),
    column(
        "roofline_ns",
        _I64,
        "ns",
        "least time, call by call: the highest of compute, vector and memory time; 0 without roofs",
    ),
    column("efficiency", _F64, "", "roofline_ns / busy_owned_ns", null=True),
    column(
        "bound",
        WORD,
        "",
        "largest part of wall_ns: host, queued, compute, memory, l2, unfused, small or inefficient; null where not "
        "judged: no device time, no roofs, costs not known that could turn it, records that cannot be",
        null=True,
    ),
    column("lost_ns", _I64, "ns", "wall_ns - roofline_ns"),
    column(
        "above_roof",
        pa.bool_(),
        "",
        "contradiction: less busy time than the roofs at the highest clock allow; wrong cost, roof or time",
        null=True,
    ),
)
_STAGE = column(
    "stage",
    WORD,
    "",
    "vision, prefill, decode, unknown; mixed: prefill and decode in one forward; host: the host's work outside steps, "
    "which has no roof",
)
_DOUBTFUL = (
    column("unknown_calls", _I64, "", "ranges of which the cost is not known"),
    column("contradicted_calls", _I64, "", "ranges whose tensors contradict their cost"),
    column(
        "uncertain_ns",
        _I64,
        "ns",
        "of busy_owned_ns: those ranges; more than 1 % leaves rates null, and what could "
        "turn the bound leaves that null",
    ),
)
_PLACE = (
    _RANK,
    _GPU,
    _PID,
    column("device", _I32, "", "CUDA device ordinal", null=True),
    _STAGE,
)
_ROW = (
    column("module", WORD, "", "sam, clip, projector, embed, decoder, lm_head; model for what spans them; host work"),
    column("kind", WORD, "", "what it computes; rest: a container's own work; host: no work of the device's"),
    column("layer", _I32, "", "layer index within the module", null=True),
    column("calls", _I64, "", "calls that the row adds up"),
    *_DOUBTFUL,
)

_BUSY_PARTS = (
    column("tax_ns", _I64, "ns", "of busy_owned_ns: tax kernels, which a fused kernel would do in passing"),
    column("small_ns", _I64, "ns", "of busy_owned_ns: kernels that are no tax, but short or of less than one wave"),
)
_THROTTLE = column(
    "throttle", WORD, "", "reasons that held the clocks down meanwhile, joined by +; null where not sampled", null=True
)

ROOFLINE = pa.schema(
    [
        *_PLACE,
        *_ROW,
        *COST_COLUMNS,
        *_TIMES,
        *_BUSY_PARTS,
        column("host_ns", _I64, "ns", "time on the calling thread, less that of the ranges inside"),
        *_RATES,
        _THROTTLE,
    ]
)
"""``roofline.arrow``: disjoint rows that add up, one per stage, module, kind and layer."""

STAGES = pa.schema(
    [
        *_PLACE,
        column("steps", _I64, "", "steps of the stage"),
        column("tokens", _I64, "", "tokens decoded or prefilled, or image tiles' patches seen"),
        column("calls", _I64, "", "hooked calls"),
        *_DOUBTFUL,
        *COST_COLUMNS,
        *_TIMES,
        *_BUSY_PARTS,
        column("host_ns", _I64, "ns", "time on the calling thread"),
        *_RATES,
        column("mfu", _F64, "", "tensor_flops / (wall_ns x datasheet dense peak of the dtype)", null=True),
        column("mbu", _F64, "", "(weight_bytes + KV bytes) / (wall_ns x datasheet bandwidth)", null=True),
        column("median_step_ns", _I64, "ns", "median over the steps of a step's wall_ns"),
        column("dilation", _F64, "", "median step as profiled / median step without any tool", null=True),
        _THROTTLE,
    ]
)
"""``stages.arrow``: one row per stage, the sum of its rows in ``roofline.arrow``."""

ANALYTIC = pa.schema([_STAGE, *(item for item in _ROW if item not in _DOUBTFUL), *COST_COLUMNS])
"""`dsocr-nvtx analytic -o`: disjoint rows that add up to the page, computed and not run."""

ANALYTIC_LEAST = pa.schema(
    [
        *ANALYTIC,
        column("compute_ns", _I64, "ns", "of all calls: the higher of tensor_flops / peak and vector_flops / peak"),
        column("memory_ns", _I64, "ns", "of all calls: the bytes that the L2 cannot hold / bandwidth"),
        column("roofline_ns", _I64, "ns", "least time, call by call: the highest of compute, vector and memory time"),
        column("bound", WORD, "", "compute, memory or l2: the roof that a run without any other loss would meet"),
    ]
)
"""The same beside the roofs of a GPU."""


def conform(
    columns: Mapping[str, object],
    schema: pa.Schema,
    provenance: Mapping[str, str] | None = None,
    *,
    narrow: bool = False,
) -> pa.Table:
    """Return a table of exactly ``schema``, with ``provenance`` in its metadata; a missing column is an error.

    Where it is to be ``narrow``, whole numbers and payloads stay in as few bytes as they come in: for tables that stay
    in memory.
    """
    arrays = [_array(columns[item.name], item.type, narrow) for item in schema]
    metadata = {"schema_version": str(SCHEMA_VERSION), **(provenance or {})}
    fields = [item.with_type(array.type) for item, array in zip(schema, arrays, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata))


_REPEATED_ROWS = 1 << 18


def repeat(value: pa.Scalar, length: int) -> pa.ChunkedArray:
    """Return a column of one value: the same piece over and over, so that a long one takes no more room than it."""
    piece = pa.repeat(value, min(length, _REPEATED_ROWS))
    pieces, rest = divmod(length, _REPEATED_ROWS)
    return pa.chunked_array([piece] * pieces + ([piece[:rest]] if rest else []), value.type)


def is_repeated(column: pa.ChunkedArray) -> bool:
    """Say whether a column of several pieces is one value that `repeat` made long."""
    places = {(piece.buffers()[1].address, piece.offset) for piece in column.chunks}
    if len(places) != 1 or pa.types.is_dictionary(column.type):
        return False
    longest = max(column.chunks, key=len)  # the others are its beginning
    if longest.null_count:
        return bool(longest.null_count == len(longest))
    values = values_of(longest)
    return bool(len(values) and (values == values[0]).all())


def _array(values: object, kind: pa.DataType, narrow: bool) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        as_it_is = narrow and (pa.types.is_struct(kind) or pa.types.is_integer(kind))
        return values if values.type == kind or as_it_is else values.cast(kind)
    if isinstance(values, np.ndarray) and narrow and pa.types.is_integer(kind):
        kind = pa.from_numpy_dtype(values.dtype)
    if isinstance(values, np.ndarray) and values.strides == (0,) and len(values):
        return repeat(pa.scalar(values[0].item(), kind), len(values))
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)
