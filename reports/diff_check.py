"""How often `diff` is right: on pairs of real runs of one code, and with one layer of the second run slowed.

Each pair is two reports of the same command on the same GPU. As they are, every `better` or `worse` is false. Then the
kernels of one decoder layer of the second are stretched, everything after them moved along, and it is joined again: the
layer should be `worse`, every other row as before. ``--other`` names runs that do differ: their headlines are printed.

    python reports/diff_check.py --pair eager-1.sqlite eager-2.sqlite --pair graph-1.sqlite graph-2.sqlite -o table.md
"""

import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from attrs import evolve

from dsocr_nvtx.compare.comparison import Comparison, StageComparison, compare
from dsocr_nvtx.compare.judging import residuals
from dsocr_nvtx.compare.lines import Line
from dsocr_nvtx.compare.noise import Spread
from dsocr_nvtx.compare.outs import Out, read_out
from dsocr_nvtx.compare.series import row_series
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.columns import Ints, numbers
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.report.changes import headline
from dsocr_nvtx.roofline.joined import JoinedReport, judged, write_tables
from dsocr_nvtx.roofline.least import Floats

TIMES = ("start_ns", "end_ns", "time_ns")


def out_of(trace: Trace, joined: Joined) -> Out:
    """Return what `join` writes of a trace."""
    with tempfile.TemporaryDirectory() as folder:
        whole = JoinedReport(trace=trace, joined=joined, judge=lambda: judged(trace, joined, None, None, "report"))
        write_tables(Path(folder), whole, force=True)
        return read_out(Path(folder))


def slowed(trace: Trace, joined: Joined, layer: int, factor: float) -> Trace:
    """Return a trace in which the kernels of a decoder layer take ``factor`` times as long, and all else waits."""
    before, after = _warp(joined.kernels, layer, factor)
    tables = ("nvtx", "operations", "launches", "announcements", "graph_nodes")
    return evolve(trace, **{name: _moved(getattr(trace, name), before, after) for name in tables})


def _warp(kernels: pa.Table, layer: int, factor: float) -> tuple[Floats, Floats]:
    """Return instants of the trace and where they move to; between them time runs evenly."""
    prefix = f"decoder.{layer}"
    mine = np.array([path == prefix or str(path).startswith(f"{prefix}.") for path in kernels["path"].to_pylist()])
    start, end = numbers(kernels, "start_ns")[mine], numbers(kernels, "end_ns")[mine]
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    begin = np.maximum(start, np.concatenate([start[:1], end[:-1]]))  # what overlaps is stretched once
    length = np.maximum(end - begin, 0)
    added = np.cumsum(length * (factor - 1))
    before = np.stack([begin, begin + length], axis=1).reshape(-1).astype(np.float64)
    after = before + np.stack([added - length * (factor - 1), added], axis=1).reshape(-1)
    edge = 1e15
    return np.concatenate([[-edge], before, [edge]]), np.concatenate([[-edge], after, [edge + added[-1]]])


def _moved(table: pa.Table, before: Floats, after: Floats) -> pa.Table:
    for name in TIMES:
        if name in table.column_names:
            column = table[name].combine_chunks()
            values: Ints = np.rint(_at(numbers(table, name), before, after)).astype(np.int64)
            at = table.schema.get_field_index(name)
            moved = pa.array(values, mask=np.asarray(column.is_null().to_numpy(zero_copy_only=False)))
            table = table.set_column(at, table.schema.field(at), moved)
    return table


def _at(values: Ints, before: Floats, after: Floats) -> Floats:
    """Return where instants move to. After the last edge nothing is stretched, so differences are added exactly."""
    at = np.clip(np.searchsorted(before, values, side="right") - 1, 0, len(before) - 2)
    length = before[at + 1] - before[at]
    slope = np.where(
        (at > 0) & (at < len(before) - 2) & (length > 0), (after[at + 1] - after[at]) / np.maximum(length, 1), 1.0
    )
    origin = np.where(at > 0, before[at], before[1])
    moved = np.where(at > 0, after[at], after[1])
    return np.asarray(moved + (values - origin) * slope)


def lines(found: Comparison, layer: int, stage: str) -> Iterator[Line]:
    """Yield the rows of a decoder layer that took busy time."""
    for row in found.rows:
        if (row.module, row.layer, row.stage, row.phase) == ("decoder", layer, stage, "run") and row.busy.base:
            yield row


def as_they_are(base: Out, plain: Out, names: str) -> str:
    """Return a pair's line of the first table."""
    found, itself = compare(base, plain), compare(plain, plain)
    sums = [layer for stage in found.stages for layer in stage.layers]
    counts = found.counts()
    cells = (
        names,
        *counts.values(),
        f"{(counts['better'] + counts['worse']) / len(found.rows):.1%}",
        f"{sum(layer.verdict.is_change for layer in sums)} of {len(sums)}",
        f"{itself.counts()['same']} of {len(itself.rows)}",
    )
    return _line(cells)


def scatter(base: Out, plain: Out, names: str) -> str:
    """Return how far rows that ran once lie from the median of their peers, in standard deviations of `Spread`."""
    found = [
        np.abs(beyond) / Spread().of(time, launches)
        for stage in compare(base, plain).stages
        for beyond, time, launches in [residuals(row_series(stage.pair))]
    ]
    values = np.concatenate(found)
    return _line((names, len(values), *(f"{np.quantile(values, share):.2f}" for share in (0.5, 0.68, 0.95, 0.99, 1.0))))


def with_slow_layers(pair: Sequence[Path], base: Out, layers: Sequence[int], factor: float) -> Iterator[str]:
    """Yield a pair's lines of the second table: how often each verdict was given."""
    trace = read_report(pair[1])
    joined = join(trace, str(pair[1]))
    counts: dict[str, Counter[str]] = {}
    for layer in layers:
        slow = slowed(trace, joined, layer, factor)
        trial = compare(base, out_of(slow, join(slow, "slowed")))
        for stage in trial.stages:
            sums = [one for one in stage.layers if (one.module, one.layer) == ("decoder", layer)]
            counts.setdefault(f"{stage.stage}, the layer", Counter()).update(one.busy.verdict for one in sums)
            rows = lines(trial, layer, stage.stage)
            counts.setdefault(f"{stage.stage}, its rows", Counter()).update(row.busy.verdict for row in rows)
        others = [row.verdict for row in trial.rows if (row.module, row.layer) != ("decoder", layer)]
        counts.setdefault("rows elsewhere", Counter()).update(others)
    verdicts = ("worse", "inconclusive", "same", "better")
    for name, count in counts.items():
        if count:
            yield _line((_names(pair), name, *(count[verdict] for verdict in verdicts)))


def _names(pair: Sequence[Path]) -> str:
    return " and ".join(path.name.split(".")[0] for path in pair)


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


HEAD = """| runs of one code | better | worse | same | inconclusive | false | layers told | same, of itself |
|---|---:|---:|---:|---:|---:|---:|---:|"""
SLOWED = """| runs | what | worse | inconclusive | same | better |
|---|---|---:|---:|---:|---:|"""


ONCE = """Rows that ran once, beside their peers, in standard deviations of `compare.noise.Spread`:

| runs of one code | rows | median | 68 % | 95 % | 99 % | most |
|---|---:|---:|---:|---:|---:|---:|"""


def read(path: Path) -> Out:
    """Return a report as `join` writes it."""
    trace = read_report(path)
    return out_of(trace, join(trace, str(path)))


def main() -> None:
    """Print the tables, or write them."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", nargs=2, type=Path, action="append", required=True, metavar=("A", "B"))
    parser.add_argument("--other", nargs=2, type=Path, action="append", default=[], metavar=("A", "B"))
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--slow", type=float, default=1.05)
    parser.add_argument("-o", type=Path)
    options = parser.parse_args()
    first, second, third = [], [], []
    for pair in options.pair:
        base, plain = (read(path) for path in pair)
        first.append(as_they_are(base, plain, _names(pair)))
        third.append(scatter(base, plain, _names(pair)))
        second.extend(with_slow_layers(pair, base, options.layers, options.slow))
    others = [f"{_names(pair)}: {headline(stage)}." for pair in options.other for stage in _stages(pair)]
    layers = ", ".join(map(str, options.layers))
    title = f"One decoder layer's kernels {options.slow - 1:.0%} slower, in turn layers {layers}:"
    text = "\n".join([HEAD, *first, "", title, "", SLOWED, *second, "", ONCE, *third, "", *others, ""])
    print(text)
    if options.o is not None:
        options.o.write_text(text, encoding="utf-8")


def _stages(pair: Sequence[Path]) -> Sequence[StageComparison]:
    return compare(*(read(path) for path in pair)).stages


if __name__ == "__main__":
    main()
