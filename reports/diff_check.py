"""How often `diff` is right: on pairs of real runs of one code, and with one layer of the second run slowed.

Each pair is two reports of the same command on the same GPU. As they are, every `better` or `worse` is false. Then the
kernels of one decoder layer of the second are stretched, everything after them moved along, and it is joined again: the
layer should be `worse`, every other row as before. ``--other`` names runs that do differ: their headlines are printed.

    python reports/diff_check.py --planted 60 --workers 16
    python reports/diff_check.py --pair eager-1.sqlite eager-2.sqlite --pair graph-1.sqlite graph-2.sqlite -o table.md
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from planting import PLANTS, Plant, Timeline, noisy

from dsocr_nvtx.compare.comparison import Comparison, StageComparison, compare
from dsocr_nvtx.compare.gate import gate
from dsocr_nvtx.compare.judging import residuals
from dsocr_nvtx.compare.lines import Line
from dsocr_nvtx.compare.noise import Spread
from dsocr_nvtx.compare.outs import Out, read_out
from dsocr_nvtx.compare.rules import parse_rule
from dsocr_nvtx.compare.series import row_series
from dsocr_nvtx.demo import CAPTURE
from dsocr_nvtx.ingest.report import read_report
from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.report.changes import headline
from dsocr_nvtx.roofline.joined import JoinedReport, judged, write_tables


def out_of(trace: Trace, joined: Joined) -> Out:
    """Return what `join` writes of a trace."""
    with tempfile.TemporaryDirectory() as folder:
        whole = JoinedReport(trace=trace, joined=joined, judge=lambda: judged(trace, joined, None, None, "report"))
        write_tables(Path(folder), whole, force=True)
        return read_out(Path(folder))


def slowed(trace: Trace, joined: Joined, layer: int, factor: float) -> Trace:
    """Return a trace in which the kernels of a decoder layer take ``factor`` times as long, and all else waits."""
    line = Timeline.of(trace, joined)
    mine = line.where(lambda _, __, path, ___: f"{path}.".startswith(f"decoder.{layer}."))
    return line.warped(np.where(mine, line.busy * factor, line.busy), line.idle)


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


PLANTED = """Runs made of the demo, with the noise of `planting.py`, {count} pairs of each kind. Right: what was planted
are the first causes that are named in decode; false: causes, and rows, that are named beside it.

| planted | clocks drift by | right | causes | false | rows told | false | busy +3 % fails | passes | wall +3 % open |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""
_RULES = ("decode.busy_ns<=+3%", "decode.wall_ns<=+3%")


@cache
def _recorded() -> Timeline:
    with resources.as_file(resources.files("dsocr_nvtx.demo") / CAPTURE) as path:
        trace = read_report(path)
        return Timeline.of(trace, join(read_report(path), "demo"))


def _made(seed: int, clocks: float, plant: Plant) -> Out:
    line = _recorded()
    trace = plant.trace(line, line.warped(*plant.lengths(line, *noisy(line, seed, clocks))))
    return out_of(trace, join(trace, "made"))


def planted_pair(what: str, number: int, clocks: float) -> Counter[str]:
    """Return what `diff` and `gate` say of one pair: counts by name."""
    plant, seed = PLANTS[what](number), 2 * number + 1_000_000 * list(PLANTS).index(what) + round(1e7 * clocks)
    a, b = _made(seed, clocks, Plant()), _made(seed + 1, clocks, plant)
    found, told = compare(a, b), Counter[str]()
    right = []
    for stage in found.stages:
        titles = [cause.title for cause in stage.causes]
        mine = [any(word in title for word in plant.expected) for title in titles]
        told["causes"] += len(titles)
        told["false causes"] += mine.count(False)
        if mine.count(False):
            print(
                what, number, stage.stage, [title for title, is_mine in zip(titles, mine, strict=True) if not is_mine]
            )
        if stage.stage == "decode":
            count = len(plant.expected)
            right.append(sum(any(word in title for word in plant.expected) for title in titles[:count]) == count)
    told["right"] += all(right)
    told["rows"] += len(found.rows)
    told["false rows"] += sum(line.verdict.is_change for line in found.rows) if what == "nothing" else 0
    for ruling in gate(b, a, [parse_rule(rule) for rule in _RULES]).rulings:
        told[f"{ruling.rule.text} {ruling.outcome}"] += 1
    return told


def planted(count: int, workers: int) -> Iterator[str]:
    """Yield the lines of the table of planted differences."""
    kinds = [(what, clocks) for what in PLANTS for clocks in (0.0, 0.015)]
    jobs = [(what, number, clocks) for what, clocks in kinds for number in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        counts = list(pool.map(planted_pair, *zip(*jobs, strict=True)))
    for at, (what, clocks) in enumerate(kinds):
        told = sum(counts[at * count : (at + 1) * count], Counter[str]())
        busy, wall = _RULES
        cells = (
            what, f"{clocks:.1%}", f"{told['right']} of {count}", told["causes"], told["false causes"], told["rows"],
            told["false rows"] if what == "nothing" else "", told[f"{busy} fail"], told[f"{busy} pass"],
            told[f"{wall} inconclusive"],
        )  # fmt: skip
        yield _line(cells)


def main() -> None:
    """Print the tables, or write them."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", nargs=2, type=Path, action="append", default=[], metavar=("A", "B"))
    parser.add_argument("--other", nargs=2, type=Path, action="append", default=[], metavar=("A", "B"))
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--slow", type=float, default=1.05)
    parser.add_argument("--planted", type=int, default=0, metavar="PAIRS")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", type=Path)
    options = parser.parse_args()
    parts = [*real(options)] if options.pair or options.other else []
    if options.planted:
        parts += [PLANTED.format(count=options.planted), *planted(options.planted, options.workers), ""]
    text = "\n".join(parts)
    print(text)
    if options.o is not None:
        options.o.write_text(text, encoding="utf-8")


def real(options: Namespace) -> Iterator[str]:
    """Yield the tables of recorded pairs."""
    first, second, third = [], [], []
    for pair in options.pair:
        base, plain = (read(path) for path in pair)
        first.append(as_they_are(base, plain, _names(pair)))
        third.append(scatter(base, plain, _names(pair)))
        second.extend(with_slow_layers(pair, base, options.layers, options.slow))
    others = [f"{_names(pair)}: {headline(stage)}." for pair in options.other for stage in _stages(pair)]
    layers = ", ".join(map(str, options.layers))
    title = f"One decoder layer's kernels {options.slow - 1:.0%} slower, in turn layers {layers}:"
    yield from [HEAD, *first, "", title, "", SLOWED, *second, "", ONCE, *third, "", *others, ""]


def _stages(pair: Sequence[Path]) -> Sequence[StageComparison]:
    return compare(*(read(path) for path in pair)).stages


if __name__ == "__main__":
    main()
