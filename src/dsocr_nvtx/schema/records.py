"""The records that both halves speak: stages, kinds, the shape of a call, and what it costs.

Whole numbers throughout: FLOPs, bytes and nanoseconds, named ``_flops``, ``_bytes`` and ``_ns``.
"""

from enum import StrEnum
from typing import Self

from attrs import define, evolve, field, fields, frozen

from dsocr_nvtx.schema.shapes import DTYPE_BYTES, CallShape, Ragged, causal_pairs

__all__ = [
    "COST_FIELDS",
    "DTYPE_BYTES",
    "HOST_LOOP",
    "HOST_PREFIX",
    "MODULES",
    "STEP_PREFIX",
    "CallShape",
    "Cost",
    "CostState",
    "ExpertsCall",
    "LayerKind",
    "Level",
    "Ragged",
    "RangeRecord",
    "RunManifest",
    "Stage",
    "StaticCheck",
    "causal_pairs",
    "code_of",
    "is_call",
    "is_host",
    "module_of",
]


class Stage(StrEnum):
    """The part of a page's inference that a call belongs to. Its position is its code on the wire: append only."""

    VISION = "vision"
    PREFILL = "prefill"
    DECODE = "decode"
    UNKNOWN = "unknown"
    MIXED = "mixed"
    """A forward of a serving engine that prefills some sequences and decodes others."""
    HOST = "host"
    """The host's own work in a serving engine, outside any step."""


class Level(StrEnum):
    """How fine a range is: one per stage and step, one per layer, or one per operation inside a layer."""

    STAGE = "stage"
    LAYER = "layer"
    OP = "op"


class LayerKind(StrEnum):
    """What a range computes. Its position is its code on the wire: append only.

    ``REST`` is a container's own work: residual additions, reshapes, glue between the modules inside it. ``HOST`` is
    what the host does besides the model (`is_host`): it has no cost, and so no roof.
    """

    PATCH_EMBED = "patch_embed"
    WINDOW_ATTENTION = "window_attention"
    GLOBAL_ATTENTION = "global_attention"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    SHARED_EXPERTS = "shared_experts"
    GATE = "gate"
    NORM = "norm"
    NECK = "neck"
    PROJECTOR = "projector"
    EMBED = "embed"
    LM_HEAD = "lm_head"
    REST = "rest"
    HOST = "host"


_OWN_WORK, _SAMPLING = ".rest", "sampling"
"""Of version 1: ends the path of a container's own work between two calls; what a step does after the model's."""
STEP_PREFIX = "step."
"""Begins the path of a served step's range; its stage follows."""


def is_call(path: str) -> bool:
    """Say whether a range is a call, not a step, host work, nor what version 1 has between calls."""
    no_call = path in set(Stage) or path == _SAMPLING or path.startswith((STEP_PREFIX, HOST_PREFIX))
    return not (no_call or path.endswith(_OWN_WORK))


HOST_PREFIX = "host."
"""Begins the path of a range of the host's own work: what it does besides the model, which has no cost."""

HOST_LOOP = "host.engine"
"""The path of an engine's own loop, around all that its host does."""


def is_host(path: str) -> bool:
    """Say whether a range is of the host's own work (``host.preprocessing``)."""
    return path.startswith(HOST_PREFIX)


def code_of(member: Stage | Level | LayerKind) -> int:
    """Return the number that stands for an enum member in payloads."""
    return _CODES[type(member)][member]


_CODES: dict[type, dict[StrEnum, int]] = {
    kind: {member: code for code, member in enumerate(kind)} for kind in (Stage, Level, LayerKind)
}


MODULES = ("sam", "clip", "projector", "embed", "decoder", "lm_head")
"""Values of the module column, besides ``model`` for what spans them and the paths of host work."""


def module_of(path: str) -> str:
    """Return the module column for a path: its first part, ``model`` for what spans modules; all of host work."""
    if is_host(path):
        return path
    head = path.split(".", 1)[0]
    return head if head in MODULES else "model"


@frozen(kw_only=True)
class Cost:
    """What one call must do and move: whole, non-negative numbers. Conventions: `dsocr_nvtx.analytic.ops`.

    ``tensor_flops`` counts what the algorithm needs (causal attention: unmasked pairs only); ``tensor_flops_unmasked``
    the same with full attention matrices, as `torch.utils.flop_counter.FlopCounterMode` counts. The byte fields up to
    ``kv_write_bytes`` are lower bounds; ``op_bytes`` is what this implementation moves operator by operator.
    """

    tensor_flops: int = 0
    tensor_flops_unmasked: int = 0
    vector_flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    kv_read_bytes: int = 0
    kv_write_bytes: int = 0
    op_bytes: int = 0

    def __attrs_post_init__(self) -> None:
        # One loop, not a validator per field: hooks price a growing KV cache with every token.
        for name in COST_FIELDS:
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} must be a whole number, not negative: {value!r}")

    def __add__(self, other: Self) -> Self:
        """Return the cost of doing both, nothing shared."""
        return evolve(self, **{name: getattr(self, name) + getattr(other, name) for name in COST_FIELDS})

    def __mul__(self, count: int) -> Self:
        """Return the cost of ``count`` equal calls."""
        return evolve(self, **{name: getattr(self, name) * count for name in COST_FIELDS})

    @property
    def flops(self) -> int:
        """Tensor and vector FLOPs together."""
        return self.tensor_flops + self.vector_flops

    @property
    def min_bytes(self) -> int:
        """Lower bound of the bytes moved: weights, activations and KV cache."""
        return self.weight_bytes + self.activation_bytes + self.kv_read_bytes + self.kv_write_bytes

    @property
    def intensity(self) -> float:
        """FLOPs per byte of the lower bound; 0 where nothing moves."""
        return self.flops / self.min_bytes if self.min_bytes else 0.0


COST_FIELDS: tuple[str, ...] = tuple(a.name for a in fields(Cost))


class CostState(StrEnum):
    """What is to be said of a call's cost: `dsocr_nvtx.schema.payload.Flag` in one word, the gravest one."""

    KNOWN = "known"
    ESTIMATED = "estimated"
    CONTRADICTED = "contradicted"
    UNKNOWN = "unknown"


@define(kw_only=True)
class RangeRecord:
    """One hooked call as the capture half saw it; one row of the run directory's ``ranges.arrow``.

    ``sequences``, ``rows``, ``keys`` and ``pairs`` are the payload's (`dsocr_nvtx.schema.payload.EXTENT_FIELDS`);
    ``cost`` is exclusive, and with ``state`` unknown it is zero and means nothing.
    Times are the host's `time.perf_counter_ns`; ``device_ns`` is the CUDA-event time where events were recorded.
    ``observed_weight_bytes`` is ``cost.weight_bytes`` with the experts observed instead of the expected number.
    ``origin`` is call, or for CUDA graphs captured (it ran nothing and costs nothing) or replayed (by one launch).
    """

    event_id: int
    parent_id: int | None
    path: str
    kind: LayerKind
    level: Level
    layer: int | None
    stage: Stage
    step: int
    dtype: str
    sequences: int
    rows: int
    keys: int
    pairs: int
    cost: Cost
    host_start_ns: int
    host_end_ns: int
    thread_id: int
    state: CostState = CostState.KNOWN
    device_ns: int | None = None
    observed_weight_bytes: int | None = None
    origin: str = "call"
    shape: CallShape = field(factory=CallShape)

    @property
    def tokens(self) -> int:
        """Rows of each sequence; where they differ, the mean, rounded down."""
        return self.rows // self.sequences if self.sequences else 0

    @property
    def kv_len(self) -> int:
        """Keys of each sequence; where they differ, the mean, rounded down."""
        return self.keys // self.sequences if self.sequences else 0


@frozen(kw_only=True)
class ExpertsCall:
    """What one call of routed experts hit, as counted on the device; ``event_id`` is the range that its cost lies in.

    That is the range of the experts themselves, or of what contains them where ranges are coarser. ``captured_id``: of
    a call that a launched CUDA graph made again, the range in which it was captured.
    """

    event_id: int
    stage: Stage
    step: int
    layer: int
    rows: int
    rows_per_expert: tuple[int, ...]
    expected_experts: float
    expected_weight_bytes: int
    expert_bytes: int
    captured_id: int | None = None

    @property
    def distinct(self) -> int:
        """Experts that got at least one row."""
        return sum(count > 0 for count in self.rows_per_expert)

    @property
    def observed_weight_bytes(self) -> int:
        """The weights of the experts hit, each read once."""
        return self.distinct * self.expert_bytes


@frozen(kw_only=True)
class StaticCheck:
    """Whether the costs that hooks recorded are those of the static model for the same shapes, and where they differ.

    At level ``op`` every row was compared; at a coarser one, every stage.
    """

    holds: bool
    level: str
    differences: tuple[str, ...] = ()


@frozen(kw_only=True)
class RunManifest:
    """What a run was: written as ``run.json`` into its directory.

    Of a run of several batches ``batch`` is the most pages of one, ``prompt_tokens`` and ``decode_tokens`` those of the
    longest, ``pages`` and ``tiles`` those of pages that are done; ``pages.arrow`` has every page. ``timing_note`` says
    what ``timing`` could not see; empty where it saw all.
    """

    schema_version: int
    package_version: str
    created_utc: str
    command: tuple[str, ...]
    device: str
    dtype: str
    level: str
    mode: str
    tiles: tuple[str, ...]
    batch: int
    attention: str
    experts: str
    pages: tuple[str, ...]
    prompt_tokens: int
    decode_tokens: int
    model: str
    versions: dict[str, str]
    ranges: int
    hook_errors: tuple[str, ...] = ()
    static_check: StaticCheck | None = None
    experts_observed: int = 0
    decode: str = "eager"
    cudnn_sdpa: bool = True
    timing: str = "none"
    timing_note: str = ""
    dilation: dict[str, dict[str, float]] = field(factory=dict)
    rank: int = 0
    world_size: int = 1
    host: str = ""
    gpu_uuid: str = ""
    page_statistics: dict[str, object] | None = None
