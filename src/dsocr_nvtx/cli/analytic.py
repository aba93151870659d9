"""`analytic`: a page's costs without running anything, and with roofs the least time that it can take."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from attrs import asdict, field, frozen
from rich.console import Console
from rich.table import Table

from dsocr_nvtx import __version__
from dsocr_nvtx.analytic.build import build_analytic_layers_from_config, said_quantisation
from dsocr_nvtx.analytic.layer import total
from dsocr_nvtx.analytic.memory import PageMemory, page_memory
from dsocr_nvtx.analytic.model import DeepseekOCRModel
from dsocr_nvtx.analytic.page import MOST_TILES
from dsocr_nvtx.analytic.released import RELEASED, read_config
from dsocr_nvtx.analytic.report import REPORT, write_report
from dsocr_nvtx.analytic.table import ROW_COLUMNS, Key, PageRequest, Row, page_calls, page_table, prompt_tokens
from dsocr_nvtx.cli.outputs import tell, written
from dsocr_nvtx.errors import Refused
from dsocr_nvtx.roofline.bounds import ROOF_BOUNDS
from dsocr_nvtx.roofline.ceilings import roofs_of
from dsocr_nvtx.roofline.least import least_times
from dsocr_nvtx.schema.files import check_directory, check_file, check_format, replacing_directory, write_table
from dsocr_nvtx.schema.hardware import Ceilings
from dsocr_nvtx.schema.records import COST_FIELDS, Cost, Stage
from dsocr_nvtx.schema.tables import ANALYTIC, ANALYTIC_LEAST, conform
from dsocr_nvtx.schema.terminal import Terminal


@frozen
class LeastNs:
    """Least times in ns, summed over calls: by compute, by memory, and of each call the higher of the two.

    ``at`` is the last of them by the roof that the call is at, in the order of `ROOF_BOUNDS`.
    """

    compute: float = 0.0
    memory: float = 0.0
    roofline: float = 0.0
    at: tuple[float, ...] = (0.0,) * len(ROOF_BOUNDS)

    def __add__(self, other: "LeastNs") -> "LeastNs":
        """Return the times of both, one after the other."""
        at = tuple(one + two for one, two in zip(self.at, other.at, strict=True))
        return LeastNs(self.compute + other.compute, self.memory + other.memory, self.roofline + other.roofline, at)

    @property
    def bound(self) -> str:
        """The roof that holds: that of most of the calls' time."""
        return ROOF_BOUNDS[self.at.index(max(self.at))]


@frozen(kw_only=True)
class PageCosts:
    """A page as it is printed and written: its rows, its memory, and with roofs the least time of every row."""

    request: PageRequest
    prompt: int
    rows: list[Row]
    memory: PageMemory
    roofs: Ceilings | None = None
    least: Mapping[Key, LeastNs] = field(factory=dict)

    def stage_least(self, stage: Stage | None = None) -> LeastNs:
        """Return the least time of a stage, or of the page."""
        return sum((times for key, times in self.least.items() if stage in (None, key[0])), LeastNs())


def analytic(
    request: PageRequest, *, config: Path | None, out: Path | None, report: Path | None, hardware: str | None,
    ceilings: Path | None, force: bool = False,
) -> None:  # fmt: skip
    """Print a page's stages and memory; write its rows to ``out`` and the plan's report to ``report`` if asked.

    With ``force`` a file at ``out`` is replaced, and an earlier report in ``report``.
    """
    if out is not None:
        check_format(out)
        check_file(out, force=force)
    if report is not None:
        check_directory(report, REPORT, force=force)
    layers, stored = _layers(config)
    roofs = roofs_of((), hardware, ceilings) if hardware or ceilings else None
    page = page_costs(layers, request, roofs)
    if out is not None:
        about = {"config": str(config or "released"), **({"weights": stored} if stored else {})}
        write_table(page_arrow(page, about), out, force=force)
    if report is not None:
        with replacing_directory(report, REPORT, force=force) as folder:
            write_report(layers, request, folder)
    places = [f"{name}: {path}" for name, path in (("table", out), ("report", report)) if path is not None]
    with written("; ".join(places) or "nothing was to be written"):
        if stored is not None:
            tell(f"weights as they are stored: {stored}")
        show_page(Terminal(), page)
        for place in places:
            tell(place)


def _layers(config: Path | None) -> tuple[DeepseekOCRModel, str | None]:
    """Return the network of a configuration, and in words how it stores its weights where they are not plain."""
    if config is None:
        return build_analytic_layers_from_config(RELEASED), None
    try:
        found = read_config(config)
        network = build_analytic_layers_from_config(found)
        return network, said_quantisation(found, network)
    except Refused as refusal:
        if refusal.where == config:
            raise
        raise Refused(f"{config}: {refusal.where}", refusal.found, refusal.remedy) from refusal


def page_costs(layers: DeepseekOCRModel, request: PageRequest, roofs: Ceilings | None) -> PageCosts:
    """Return a page's rows and memory, and their least times where roofs are given."""
    rows = page_table(layers, request)
    _check_countable(rows)
    return PageCosts(
        request=request,
        prompt=prompt_tokens(layers, request),
        rows=rows,
        memory=page_memory(layers, request),
        roofs=roofs,
        least=_least(layers, request, roofs) if roofs is not None else {},
    )


def _check_countable(rows: Iterable[Row]) -> None:
    """Refuse a page that costs more than 64 bits hold, which no network's does."""
    whole = total(row.cost for row in rows)
    for name in COST_FIELDS:
        if getattr(whole, name) >= 1 << 63:
            remedy = "give the configuration of a network that exists, or a smaller page"
            raise Refused("config", f"{name} of the page is more than 64 bits hold", remedy)


def _least(layers: DeepseekOCRModel, request: PageRequest, roofs: Ceilings) -> dict[Key, LeastNs]:
    """Return each row's least time: the sum of its calls' own, by the rule that measured rows are held to."""
    known: dict[int, LeastNs] = {}
    least: dict[Key, LeastNs] = {}
    calls = page_calls(layers, request)
    for some in calls:
        if id(some.costs) not in known:
            known[id(some.costs)] = _least_of(some.costs, request.dtype, roofs)
        least[some.key] = least.get(some.key, LeastNs()) + known[id(some.costs)]
    return least


def _least_of(costs: Iterable[tuple[int, Cost]], dtype: str, roofs: Ceilings) -> LeastNs:
    counts, each = zip(*costs, strict=True)
    own = {name: np.array([getattr(cost, name) for cost in each], np.int64) for name in COST_FIELDS}
    times, weights = least_times(own, (np.zeros(len(each), np.int64), [dtype]), roofs), np.array(counts)
    at = tuple(float(values @ weights) for values in times.at_roofs().values())
    compute, memory, roofline = (float(values @ weights) for values in (times.compute, times.memory, times.roofline))
    return LeastNs(compute, memory, roofline, at)


def page_arrow(page: PageCosts, about: Mapping[str, str]) -> pa.Table:
    """Return the rows as an ANALYTIC table, with roofs as ANALYTIC_LEAST; the request is in its metadata."""
    columns: dict[str, object] = dict(
        zip(ROW_COLUMNS, map(list, zip(*(row.values() for row in page.rows), strict=True)), strict=True)
    )
    request = {name: str(value) for name, value in asdict(page.request).items() if value is not None}
    about = {**about, **request, "prompt_tokens": str(page.prompt), "dsocr_nvtx": __version__}
    if page.roofs is None:
        return conform(columns, ANALYTIC, about)
    least = [page.least[row.stage, row.module, row.kind, row.layer] for row in page.rows]
    columns |= {f"{n}_ns": [round(getattr(times, n)) for times in least] for n in ("compute", "memory", "roofline")}
    columns["bound"] = [times.bound for times in least]
    return conform(columns, ANALYTIC_LEAST, about | {"roofs": f"{page.roofs.device}: {page.roofs.source}"})


def show_page(console: Console, page: PageCosts) -> None:
    """Print one line per stage, the page's total, its memory, and with roofs the rates that nothing can exceed."""
    request = page.request
    tiles = f"{request.grid[0]}x{request.grid[1]} tiles, " if request.grid != (1, 1) else ""
    what = f"{request.mode}, {tiles}{page.prompt} prompt tokens, {request.decode_tokens} decode steps"
    console.print(f"{what}, batch {request.batch}, {request.dtype}; bytes in GB", highlight=False, soft_wrap=True)
    if request.grid[0] * request.grid[1] > MOST_TILES:
        note = f"note: the model's own code cuts a page into at most {MOST_TILES} tiles; this is what more would cost"
        console.print(note, style="yellow", highlight=False, soft_wrap=True)
    console.print(_stages(page))
    sizes = {name: value / 1e9 for name, value in asdict(page.memory).items()}
    console.print(
        f"memory: weights {sizes['weight_bytes']:.3f} GB, KV cache {sizes['kv_cache_bytes']:.3f} GB, "
        f"peak activations {sizes['activation_bytes']:.3f} GB; together {page.memory.total_bytes / 1e9:.3f} GB",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if page.roofs is not None:
        console.print(_rates(page, page.roofs), highlight=False, soft_wrap=True)


def _rates(page: PageCosts, roofs: Ceilings) -> str:
    decode, whole, batch = page.stage_least(Stage.DECODE).roofline, page.stage_least().roofline, page.request.batch
    tokens = f"{batch * page.request.decode_tokens / decode * 1e9:,.0f} tokens/s in decode, " if decode else ""
    return f"at the roofs of {roofs.device}: {tokens}{batch / whole * 1e9:,.2f} pages/s ({roofs.source})"


def _stages(page: PageCosts) -> Table:
    """Return what fits 80 columns; every column of its own is in the written table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    heads = ["TFLOP", "weights", "activ.", "KV", "at least", "op bytes"]
    for name in [*heads, *(["least ms", "bound"] if page.roofs else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for stage in [s for s in Stage if any(row.stage is s for row in page.rows)]:
        table.add_row(stage.value, *_cells([r.cost for r in page.rows if r.stage is stage], page, stage))
    table.add_row("page", *_cells([row.cost for row in page.rows], page, None), style="bold")
    return table


def _cells(costs: list[Cost], page: PageCosts, stage: Stage | None) -> list[str]:
    cost = total(costs)
    moved = (cost.weight_bytes, cost.activation_bytes, cost.kv_read_bytes + cost.kv_write_bytes)
    cells = [_short(cost.flops / 1e12), *(_short(size / 1e9) for size in (*moved, cost.min_bytes, cost.op_bytes))]
    least = page.stage_least(stage)
    return [*cells, _short(least.roofline / 1e6), least.bound] if page.roofs else cells


def _short(value: float) -> str:
    """Return a number in at most seven places, up to a million."""
    return f"{value:,.3f}" if value < 100 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"
