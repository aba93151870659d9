"""What the static model says of the page that a run has run, written beside what the hooks recorded and held to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsocr_nvtx.analytic.observed import OwnCall, differences, model_calls, observed_rows, own_calls
from dsocr_nvtx.analytic.page import TILE_SIDE
from dsocr_nvtx.analytic.report import write_report
from dsocr_nvtx.analytic.summary import run_summary
from dsocr_nvtx.analytic.table import PageRequest, page_table
from dsocr_nvtx.errors import DsocrError
from dsocr_nvtx.hooks.bindings import hooked_network
from dsocr_nvtx.run.views import PageViews
from dsocr_nvtx.run.workload import Workload
from dsocr_nvtx.schema.files import write_json
from dsocr_nvtx.schema.records import Level, Stage, StaticCheck

if TYPE_CHECKING:
    from dsocr_nvtx.hooks import AnalyticRunStats


def write_static(
    directory: Path, work: Workload, mode: str, level: Level, stats: "AnalyticRunStats", steps: int
) -> StaticCheck:
    """Write ``static_analysis/analytic_model`` and ``analytic_hooks/summary.json``; return how the check came out.

    ``steps`` is the number of decode steps that the run made. The static model is asked for the shapes that were
    observed: tiles, prompt, steps, cache, and the experts' implementation of each stage.
    """
    calls = own_calls(stats.records)
    write_json(run_summary(calls, work.views.batch, stats.experts), directory / "analytic_hooks" / "summary.json")
    try:
        request = observed_page(work.views, mode, calls, steps)
        layers = hooked_network(work.model, level).network  # with the model's weights as they lie
        write_report(layers, request, directory / "static_analysis" / "analytic_model")
        found = differences(observed_rows(calls), page_table(layers, request), level)
    except DsocrError as error:
        found = [f"no static model of what was observed: {error}"]
    return StaticCheck(holds=not found, level=str(level), differences=tuple(found))


def observed_page(views: PageViews, mode: str, calls: Sequence[OwnCall], steps: int) -> PageRequest:
    """Return the request of the static table for what the hooks saw; the forwards over tokens say most of it."""
    prefill, decode = (model_calls(calls, stage) for stage in (Stage.PREFILL, Stage.DECODE))
    if len(prefill) != 1:
        raise DsocrError(f"{len(prefill)} hooked forwards of the prompt, and one is modelled")
    shape = prefill[0].shape
    tiles = views.pixel_values_local
    return PageRequest(
        mode=mode,
        grid=views.grids[0],
        prompt_tokens=shape.tokens,
        decode_tokens=steps,
        batch=shape.batch,
        dtype=shape.dtype,
        attention=shape.attention,
        experts=shape.experts,
        decode_experts=decode[0].shape.experts if decode else None,
        kv_slots=shape.kv_slots,
        whole_side=views.pixel_values.shape[-1],
        tile_side=TILE_SIDE if tiles is None else tiles.shape[-1],
    )
