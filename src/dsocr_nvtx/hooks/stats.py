"""What the hooks recorded, as records, as the run directory's table, and as the plan's per-step lists."""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from itertools import chain
from pathlib import Path

from attrs import define, evolve, field

from dsocr_nvtx.analytic.observed import note_observed
from dsocr_nvtx.hooks.captures import Replay, replayed_rows
from dsocr_nvtx.hooks.rows import Row, Rows
from dsocr_nvtx.schema.files import write_json, write_table
from dsocr_nvtx.schema.payload_v1 import PAYLOAD_FIELDS_V1 as PAYLOAD_FIELDS
from dsocr_nvtx.schema.records import COST_FIELDS, Cost, ExpertsCall, RangeRecord, Stage, module_of
from dsocr_nvtx.schema.tables import EXPERTS, RANGES_V1, conform

_STAGES = tuple(Stage)
_TERA, _GIGA = 1e12, 1e9
_VISION_NAMES = {"sam": "image_encoder_vit", "clip": "vit_model", "projector": "mlp_projector"}


@define
class AnalyticRunStats:
    """The calls of one hooked run."""

    rows: Rows = field(factory=Rows)
    experts: list[ExpertsCall] = field(factory=list)
    replays: list[Replay] = field(factory=list)

    @property
    def records(self) -> list[RangeRecord]:
        """Every hooked call, in the order in which they began. Synchronises with the GPU where events were recorded."""
        rows = chain(self.rows, replayed_rows(self.replays))
        found = sorted((_record(row) for row in rows), key=lambda record: (record.host_start_ns, record.event_id))
        note_observed(found, self.experts)
        return found

    def clear(self) -> None:
        """Forget everything recorded so far."""
        self.rows.clear()
        self.replays.clear()
        self.experts.clear()

    def decoder_steps(self) -> list[dict[str, object]]:
        """Return the plan's list: one entry per call of a decoder layer, in TFLOPs, terabytes and gigabytes."""
        return [
            {
                "layer_idx": record.layer,
                "stage": str(record.stage),
                "step": record.step,
                "tokens": record.shape.rows,
                "flops_tflops": record.cost.flops / _TERA,
                "io_tb": record.cost.min_bytes / _TERA,
                "kv_gb": _kv_bytes(record) / _GIGA,
                "flops": record.cost.flops,
                "io_bytes": record.cost.min_bytes,
                "kv_bytes": _kv_bytes(record),
            }
            for record in self._at(lambda path: path.startswith("decoder.") and path.count(".") == 1)
            if record.layer is not None and record.origin != "captured"
        ]

    def vision_steps(self) -> list[dict[str, object]]:
        """Return the plan's list: one entry per call of SAM, CLIP and the projector."""
        return [
            {
                "module": _VISION_NAMES[record.path],
                "stage": str(record.stage),
                "batch": record.shape.batch,
                "flops_tflops": record.cost.flops / _TERA,
                "io_tb": record.cost.min_bytes / _TERA,
                "act_gb": record.cost.activation_bytes / _GIGA,
                "w_gb": record.cost.weight_bytes / _GIGA,
                "flops": record.cost.flops,
                "io_bytes": record.cost.min_bytes,
            }
            for record in self._at(_VISION_NAMES.__contains__)
        ]

    def _at(self, wanted: Callable[[str], bool]) -> Iterator[RangeRecord]:
        return (record for record in self.records if wanted(record.path))

    def write(self, directory: Path) -> None:
        """Write ``ranges.arrow``, ``analytic_hooks/decoder_steps.json`` and ``vision_steps.json`` into a directory."""
        write_table(conform(_columns(self.records), RANGES_V1), directory / "ranges.arrow")
        if self.experts:
            write_table(conform(_experts_columns(self.experts), EXPERTS), directory / "experts.arrow")
        self.write_steps(directory / "analytic_hooks")

    def write_steps(self, directory: Path) -> None:
        """Write the plan's two lists into a directory."""
        write_json(self.decoder_steps(), directory / "decoder_steps.json")
        write_json(self.vision_steps(), directory / "vision_steps.json")


def _record(row: Row) -> RangeRecord:
    place = row.place
    priced = row.priced if row.origin != "captured" else evolve(row.priced, cost=Cost(), own_activation_bytes=0)
    return RangeRecord(
        event_id=row.event_id,
        parent_id=row.parent_id,
        path=place.path,
        kind=place.kind,
        level=place.level,
        layer=place.layer,
        stage=_STAGES[row.stage],
        step=row.step,
        dtype=priced.shape.dtype,
        sequences=priced.shape.batch,
        rows=priced.shape.rows,
        keys=priced.shape.batch * priced.shape.kv_len,
        pairs=0,
        shape=priced.shape,
        cost=priced.cost,
        own_activation_bytes=priced.own_activation_bytes,
        host_start_ns=row.start_ns,
        host_end_ns=row.end_ns,
        thread_id=row.thread_id,
        device_ns=_elapsed(row),
        origin=row.origin,
    )


def _elapsed(row: Row) -> int | None:
    if row.events is None:
        return None
    start, end = row.events
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return round(milliseconds * 1e6)


def _kv_bytes(record: RangeRecord) -> int:
    """Return the layer's cache after the call: each token's keys and values, counted from what one token writes."""
    per_token = record.cost.kv_write_bytes // max(record.shape.tokens, 1)
    return per_token * record.shape.kv_len


def _columns(records: Sequence[RangeRecord]) -> dict[str, object]:
    columns: dict[str, object] = {
        name: [getattr(record.cost, name) for record in records] for name in PAYLOAD_FIELDS if name in COST_FIELDS
    }
    columns |= {name: [getattr(record.shape, name) for record in records] for name in ("batch", "tokens", "kv_len")}
    columns |= {
        name: [getattr(record, name) for record in records]
        for name in (
            "event_id", "parent_id", "path", "step", "layer", "own_activation_bytes", "host_start_ns", "host_end_ns",
            "device_ns", "thread_id", "observed_weight_bytes",
        )
    }  # fmt: skip
    columns |= {
        name: [str(getattr(record, name)) for record in records] for name in ("kind", "level", "stage", "origin")
    }
    columns["dtype"] = [record.shape.dtype for record in records]
    columns["module"] = [module_of(record.path) for record in records]
    return columns


def _experts_columns(calls: Sequence[ExpertsCall]) -> dict[str, object]:
    same = ("event_id", "step", "layer", "rows", "expected_experts", "expected_weight_bytes", "observed_weight_bytes")
    return {
        **{name: [getattr(call, name) for call in calls] for name in same},
        "stage": [str(call.stage) for call in calls],
        "distinct_experts": [call.distinct for call in calls],
        "rows_per_expert": [list(call.rows_per_expert) for call in calls],
    }


_STATS: ContextVar[AnalyticRunStats | None] = ContextVar("dsocr_analytic_run_stats", default=None)


def use_analytic_run_stats(stats: AnalyticRunStats) -> None:
    """Make these the statistics that `get_analytic_run_stats` returns in this context."""
    _STATS.set(stats)


def get_analytic_run_stats() -> AnalyticRunStats:
    """Return the statistics of the hooks attached last in this context; empty ones where there were none."""
    stats = _STATS.get()
    if stats is None:
        stats = AnalyticRunStats()
        _STATS.set(stats)
    return stats


def reset_analytic_run_stats() -> None:
    """Forget what the hooks attached last in this context have recorded."""
    get_analytic_run_stats().clear()


def write_analytic_run_stats(path: Path) -> None:
    """Write the plan's ``decoder_steps.json`` and ``vision_steps.json`` into directory ``path``."""
    get_analytic_run_stats().write_steps(Path(path))
