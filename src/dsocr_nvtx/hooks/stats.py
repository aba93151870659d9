"""What the hooks recorded, as records, as the run directory's table, and as the plan's per-step lists."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from itertools import groupby
from pathlib import Path

from attrs import define, field

from dsocr_nvtx.analytic.observed import note_observed
from dsocr_nvtx.hooks.calls import Call, CallLog, Forward
from dsocr_nvtx.hooks.captures import Replay, replayed_ids
from dsocr_nvtx.hooks.prices import Priced
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.schema.files import write_json, write_table
from dsocr_nvtx.schema.payload import EXTENT_FIELDS, Flag
from dsocr_nvtx.schema.records import COST_FIELDS, Cost, CostState, ExpertsCall, RangeRecord, module_of
from dsocr_nvtx.schema.tables import EXPERTS, RANGES, conform

_TERA, _GIGA = 1e12, 1e9
_VISION_NAMES = {"sam": "image_encoder_vit", "clip": "vit_model", "projector": "mlp_projector"}


@define
class AnalyticRunStats:
    """The calls of one hooked run."""

    calls: CallLog = field(factory=CallLog)
    experts: list[ExpertsCall] = field(factory=list)
    replays: list[Replay] = field(factory=list)

    @property
    def ranges(self) -> int:
        """How many calls of hooked modules were recorded, those that launches of graphs stand for not counted."""
        return len(self.calls)

    @property
    def records(self) -> list[RangeRecord]:
        """Every hooked call, in the order in which they began. Synchronises with the GPU where events were recorded."""
        found = [*self._called(), *_replayed(self.replays)]
        found.sort(key=lambda record: (record.host_start_ns, record.event_id))
        note_observed(found, self.experts)
        return found

    def clear(self) -> None:
        """Forget everything recorded so far."""
        self.calls.clear()
        self.replays.clear()
        self.experts.clear()

    def _called(self) -> Iterator[RangeRecord]:
        forwards = list(self.calls)
        parents = parents_of(forwards)
        for forward in forwards:
            for call, price in _priced(forward, forward.kv_len):
                events = self.calls.events.get(call.event_id)
                yield _record(
                    forward, call, price, forward.step,
                    event_id=call.event_id, parent_id=parents[call.event_id], host_start_ns=call.start_ns,
                    host_end_ns=call.end_ns, thread_id=forward.thread_id,
                    device_ns=_elapsed(*events) if events is not None else None,
                    origin="captured" if forward.captured else "call",
                )  # fmt: skip

    def decoder_steps(self) -> list[dict[str, object]]:
        """Return the plan's list: one entry per call of a decoder layer, in TFLOPs, terabytes and gigabytes.

        Costs are those of the whole layer, whatever inside it was hooked as well.
        """
        return [
            {
                "layer_idx": record.layer,
                "stage": str(record.stage),
                "step": record.step,
                "tokens": record.rows,
                "flops_tflops": cost.flops / _TERA,
                "io_tb": cost.min_bytes / _TERA,
                "kv_gb": _kv_bytes(record, cost) / _GIGA,
                "flops": cost.flops,
                "io_bytes": cost.min_bytes,
                "kv_bytes": _kv_bytes(record, cost),
            }
            for record, cost in self._inclusive(lambda path: path.startswith("decoder.") and path.count(".") == 1)
            if record.layer is not None and record.origin != "captured"
        ]

    def vision_steps(self) -> list[dict[str, object]]:
        """Return the plan's list: one entry per call of SAM, CLIP and the projector."""
        return [
            {
                "module": _VISION_NAMES[record.path],
                "stage": str(record.stage),
                "batch": record.sequences,
                "flops_tflops": cost.flops / _TERA,
                "io_tb": cost.min_bytes / _TERA,
                "act_gb": cost.activation_bytes / _GIGA,
                "w_gb": cost.weight_bytes / _GIGA,
                "flops": cost.flops,
                "io_bytes": cost.min_bytes,
            }
            for record, cost in self._inclusive(_VISION_NAMES.__contains__)
        ]

    def _inclusive(self, wanted: Callable[[str], bool]) -> Iterator[tuple[RangeRecord, Cost]]:
        """Yield records whose cost is known with the cost of everything inside, as the layer's description tells it."""
        described = {site.path: site.description for site in self.calls.sites}
        for record in self.records:
            description = described.get(record.path)
            if wanted(record.path) and description is not None and record.state is not CostState.UNKNOWN:
                yield record, description.cost(record.shape)

    def write(self, directory: Path) -> None:
        """Write ``ranges.arrow``, ``analytic_hooks/decoder_steps.json`` and ``vision_steps.json`` into a directory."""
        write_table(conform(_columns(self.records), RANGES), directory / "ranges.arrow")
        if self.experts:
            write_table(conform(_experts_columns(self.experts), EXPERTS), directory / "experts.arrow")
        self.write_steps(directory / "analytic_hooks")

    def write_steps(self, directory: Path) -> None:
        """Write the plan's two lists into a directory."""
        write_json(self.decoder_steps(), directory / "decoder_steps.json")
        write_json(self.vision_steps(), directory / "vision_steps.json")


def parents_of(forwards: Iterable[Forward]) -> dict[int, int | None]:
    """Return the event id of the call around each call on its thread, None where there is none, by event id.

    Calls of one thread nest, and their event ids count them in the order in which they began.
    """
    parents: dict[int, int | None] = {}
    ordered = sorted(forwards, key=lambda forward: forward.thread_id)
    for _, on_thread in groupby(ordered, key=lambda forward: forward.thread_id):
        calls = sorted((call for forward in on_thread for call in forward.calls), key=lambda call: call.event_id)
        around: list[Call] = []
        for call in calls:
            while around and around[-1].end_ns <= call.start_ns:
                around.pop()
            parents[call.event_id] = around[-1].event_id if around else None
            around.append(call)
    return parents


def _replayed(replays: list[Replay]) -> Iterator[RangeRecord]:
    """Yield every call of every replay: as it was captured, at the step, cache length and time of the launch."""
    nested: dict[int, dict[int, int | None]] = {}
    for replay, ids in zip(replays, replayed_ids(replays), strict=True):
        forwards = replay.capture.forwards
        parents = nested.setdefault(id(replay.capture), parents_of(forwards))
        for forward in forwards:
            for call, price in _priced(forward, replay.length(forward)):
                parent = parents[call.event_id]
                yield _record(
                    forward, call, price, replay.step,
                    event_id=ids[call.event_id],
                    parent_id=ids.get(parent, replay.parent_id) if parent is not None else replay.parent_id,
                    host_start_ns=replay.time_ns, host_end_ns=replay.time_ns, thread_id=replay.thread_id,
                    device_ns=None, origin="replayed",
                )  # fmt: skip


def _priced(forward: Forward, kv_len: int) -> Iterator[tuple[Call, Priced]]:
    prices, first = forward.costs.at(kv_len), forward.costs.root.number
    for call in forward.calls:
        yield call, prices[call.site.number - first]


def _record(
    forward: Forward, call: Call, price: Priced, step: int, *, event_id: int, parent_id: int | None,
    host_start_ns: int, host_end_ns: int, thread_id: int, device_ns: int | None, origin: str,
) -> RangeRecord:  # fmt: skip
    site: Site = call.site
    return RangeRecord(
        event_id=event_id,
        parent_id=parent_id,
        path=site.path,
        kind=site.kind,
        level=site.level,
        layer=site.layer,
        stage=forward.stage,
        step=step,
        dtype=site.dtype,
        **dict(zip(EXTENT_FIELDS, price.extent, strict=True)),
        cost=Cost() if origin == "captured" else price.cost,
        state=_state(price.flags, contradicted=forward.contradicted),
        shape=price.shape,
        host_start_ns=host_start_ns,
        host_end_ns=host_end_ns,
        thread_id=thread_id,
        device_ns=device_ns,
        origin=origin,
    )


def _state(flags: Flag, *, contradicted: bool) -> CostState:
    if flags & Flag.UNKNOWN:
        return CostState.UNKNOWN
    return CostState.CONTRADICTED if contradicted or flags & Flag.CONTRADICTED else CostState.KNOWN


def _elapsed(start: object, end: object) -> int:
    end.synchronize()  # type: ignore[attr-defined] # torch's events
    milliseconds: float = start.elapsed_time(end)  # type: ignore[attr-defined]
    return round(milliseconds * 1e6)


def _kv_bytes(record: RangeRecord, cost: Cost) -> int:
    """Return the layer's cache after the call: each token's keys and values, counted from what one token writes."""
    per_token = cost.kv_write_bytes // max(record.shape.tokens, 1)
    return per_token * record.shape.kv_len


def _columns(records: Sequence[RangeRecord]) -> Mapping[str, object]:
    columns: dict[str, object] = {name: [getattr(record.cost, name) for record in records] for name in COST_FIELDS}
    columns |= {
        name: [getattr(record, name) for record in records]
        for name in (
            "event_id", "parent_id", "path", "step", "layer", "dtype", "rows", "keys", "pairs", "tokens", "kv_len",
            "host_start_ns", "host_end_ns", "device_ns", "thread_id", "observed_weight_bytes",
        )
    }  # fmt: skip
    columns |= {
        name: [str(getattr(record, name)) for record in records] for name in ("kind", "level", "stage", "origin")
    }
    columns["batch"] = [record.sequences for record in records]
    columns["cost_state"] = [str(record.state) for record in records]
    columns["module"] = [module_of(record.path) for record in records]
    return columns


def _experts_columns(calls: Sequence[ExpertsCall]) -> Mapping[str, object]:
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
