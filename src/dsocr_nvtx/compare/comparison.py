"""The comparison of two joined runs: stages, layers and rows with their verdicts, and where the change comes from."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

from attrs import evolve, frozen

from dsocr_nvtx.compare.additive import contributions
from dsocr_nvtx.compare.calls import call_changes
from dsocr_nvtx.compare.cause import Cause
from dsocr_nvtx.compare.causes import busy_causes, idle_causes
from dsocr_nvtx.compare.cells import Operations
from dsocr_nvtx.compare.judging import Judged, Series, judge_all, judge_idle_once, residuals
from dsocr_nvtx.compare.lines import Line, Moved
from dsocr_nvtx.compare.noise import fitted
from dsocr_nvtx.compare.outs import Out, check_levels, warnings
from dsocr_nvtx.compare.pairs import Side, StagePair, absent, pair_stage
from dsocr_nvtx.compare.reasons import overall, reason_of
from dsocr_nvtx.compare.series import count_per_unit, layer_series, row_series, stage_series
from dsocr_nvtx.compare.steps import COUNTS, PARTS, Key, stage_runs
from dsocr_nvtx.compare.verdicts import Limits, Verdict
from dsocr_nvtx.compare.waits import stall_causes
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.schema.records import Stage


@frozen(kw_only=True, eq=False)
class StageComparison:
    """One stage: its sum, its layers' sums, and its rows, which are disjoint and add up to it."""

    pair: StagePair
    total: Line
    layers: list[Line]
    rows: list[Line]
    notes: list[str]
    find: Callable[[], list[Cause]] = list
    called: Callable[[], list[Cause]] = list

    @cached_property
    def causes(self) -> list[Cause]:
        """What changed for sure, by name, that first which costs, or saves, most a step."""
        return sorted(self.find(), key=lambda cause: (-abs(cause.cost), cause.name, cause.module, cause.kind))

    @cached_property
    def calls(self) -> list[Cause]:
        """Which CUDA calls of the host changed in number or time, the largest change of time first."""
        return self.called()

    @property
    def tokens_per_unit(self) -> float:
        """Tokens of B per unit."""
        return self.pair.b.tokens / max(self.pair.b.units, 1)

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.total.stage

    def changed(self) -> list[Line]:
        """Return the rows that are better or worse, those that weigh most first."""
        found = [row for row in self.rows if row.verdict.is_change]
        return sorted(found, key=lambda row: (-abs(row.contribution), row.module, row.kind, row.layer or 0))


@frozen(kw_only=True, eq=False)
class Comparison:
    """Two runs: what they are called, their common level, what to be wary of, and their stages."""

    a: Out
    b: Out
    limits: Limits
    warnings: list[str]
    stages: list[StageComparison]

    @property
    def rows(self) -> list[Line]:
        """Every row of every stage."""
        return [row for stage in self.stages for row in stage.rows]

    def counts(self) -> dict[str, int]:
        """Return how many rows have each verdict."""
        found = Counter(row.verdict for row in self.rows)
        return {str(verdict): found[verdict] for verdict in Verdict}


def compare(a: Out, b: Out, limits: Limits | None = None) -> Comparison:
    """Compare run ``b`` with run ``a``. Refused: runs of different levels.

    Every row of either run is in the answer. Of a run with itself every row is ``same``; of ``compare(b, a)`` every
    verdict and change is the opposite.
    """
    check_levels(a, b)
    limits = limits or Limits()
    runs_a, runs_b = stage_runs(a), stage_runs(b)
    operations = cache(lambda: (Operations.of(a), Operations.of(b)))
    stages = []
    for name in sorted({*runs_a, *runs_b}, key=_stage_order):
        one, two = runs_a.get(name), runs_b.get(name)
        pair = pair_stage(one or absent(runs_b[name]), two or absent(runs_a[name]))
        stages.append(_with_causes(_compare_stage(pair, limits), a, b, operations, limits))
    return Comparison(a=a, b=b, limits=limits, warnings=warnings(a, b), stages=stages)


def only_stage(found: Comparison, stage: str) -> Comparison:
    """Return a comparison of one stage alone, of all where none is named. A usage error: one that neither run has."""
    if not stage:
        return found
    stages = [one for one in found.stages if one.stage == stage]
    if not stages:
        raise UsageError(f"--stage {stage}: neither run has it; they have {', '.join(s.stage for s in found.stages)}")
    return evolve(found, stages=stages)


def _with_causes(
    stage: StageComparison, a: Out, b: Out, operations: Callable[[], tuple[Operations | None, Operations | None]],
    limits: Limits,
) -> StageComparison:  # fmt: skip
    """Return a stage that finds its causes when it is asked for them: gates need none."""
    pair = stage.pair

    def find() -> list[Cause]:
        spread = fitted(*residuals(row_series(pair)))
        return [
            *busy_causes(pair, *operations(), limits, spread),
            *idle_causes(pair, limits, spread),
            *stall_causes(pair, a, b, limits),
        ]

    return evolve(stage, find=find, called=lambda: call_changes(pair, a, b, limits))


def _stage_order(name: str) -> tuple[int, str]:
    known = [str(stage) for stage in Stage]
    return (known.index(name) if name in known else len(known), name)


def judge_rows(pair: StagePair, groups: Sequence[Series], limits: Limits) -> list[Judged]:
    """Judge series of a pair with the spread that its rows show."""
    return judge_all(groups, limits, fitted(*residuals(row_series(pair))))


def _compare_stage(pair: StagePair, limits: Limits) -> StageComparison:
    series = row_series(pair)
    spread = fitted(*residuals(series))
    told = contributions(pair)
    judged = judge_all(series, limits, spread)
    rows = [
        evolve(_line(pair, key, [at], one, found), parts=told[at])
        for at, (key, one, found) in enumerate(zip(pair.keys, series, judged, strict=True))
    ]
    rows += [
        evolve(line, parts=parts) for line, parts in zip(_captures(pair, limits), told[len(series) :], strict=True)
    ]
    layers = layer_series(pair)
    found = judge_all([one for _, one in layers], limits, spread)
    whole = stage_series(pair)
    total = _line(pair, Key("", "", -1, "run"), range(len(pair.keys)), whole, judge_all([whole], limits, spread)[0])
    return StageComparison(
        pair=pair,
        total=evolve(total, parts=_sum(rows)),
        layers=[
            evolve(_line(pair, key, members, one, judgement), parts=_sum([rows[at] for at in members]))
            for (key, one), judgement in zip(layers, found, strict=True)
            for members in [[at for at, other in enumerate(pair.keys) if other[0] == key[0] and other[2] == key[2]]]
        ],
        rows=rows,
        notes=pair.notes,
    )


def _sum(lines: Sequence[Line]) -> tuple[int, ...]:
    return tuple(sum(line.parts[part] for line in lines) for part in range(len(PARTS)))


def _line(pair: StagePair, key: Key, rows: Sequence[int], series: Series, judged: Judged) -> Line:
    present = [any(side.present[row] for row in rows) for side in (pair.a, pair.b)]
    verdict, moved = overall(judged.busy, judged.idle)
    bare = Line(
        stage=pair.stage, module=key.module, kind=key.kind, layer=key.layer if key.layer >= 0 else None,
        phase=key.phase, unit=pair.unit, present=_where(*present), steps=pair.steps,
        a_calls=count_per_unit(pair.a, "calls", rows), b_calls=count_per_unit(pair.b, "calls", rows),
        a_launches=count_per_unit(pair.a, "launches", rows), b_launches=count_per_unit(pair.b, "launches", rows),
        busy=judged.busy, idle=judged.idle, wall=judged.wall, drift=judged.drift, peers=judged.peers,
        against_peers=judged.against_peers, verdict=verdict, moved=moved, reason="",
    )  # fmt: skip
    return evolve(bare, reason=reason_of(bare, series.comparable, once=series.once))


def _where(in_a: bool, in_b: bool) -> str:
    return "both" if in_a == in_b else "A" if in_a else "B"


def _captures(pair: StagePair, limits: Limits) -> Iterator[Line]:
    """Yield the rows of calls captured into CUDA graphs: once a run, host time alone, so noise can hardly be told."""
    for at, key in enumerate(pair.captured_keys):
        present = _where(*(side.present[len(pair.keys) + at] for side in (pair.a, pair.b)))
        (busy_a, idle_a), (busy_b, idle_b) = (_captured(side, at) for side in (pair.a, pair.b))
        busy, idle = Moved.exact(busy_a, busy_b), Moved.exact(idle_a, idle_b)
        verdict = Verdict.INCONCLUSIVE
        if present == "both" and busy.verdict == Verdict.SAME:
            once_a, once_b = (float(side.captured[1 : len(PARTS), at].sum()) for side in (pair.a, pair.b))
            calls = float(pair.a.captured[COUNTS["calls"], at] + pair.b.captured[COUNTS["calls"], at]) / 2
            verdict = judge_idle_once(once_a, once_b, calls, limits)
            idle = evolve(idle, verdict=verdict)
        where = "" if present == "both" else f"; only in {present}"
        yield Line(
            stage=pair.stage, module=key.module, kind=key.kind, layer=key.layer if key.layer >= 0 else None,
            phase=key.phase, unit=pair.unit, present=present, steps=1,
            a_calls=_captured_count(pair.a, "calls", at), b_calls=_captured_count(pair.b, "calls", at),
            a_launches=_captured_count(pair.a, "launches", at), b_launches=_captured_count(pair.b, "launches", at),
            busy=busy, idle=idle, wall=Moved.exact(busy_a + idle_a, busy_b + idle_b),
            verdict=verdict, moved="idle" if verdict.is_change else "",
            reason="" if verdict == Verdict.SAME else f"captured into a CUDA graph, once a run{where}",
        )  # fmt: skip


def _captured(side: Side, at: int) -> tuple[float, float]:
    """Return busy and idle time of a captured row, spread over the steps of its run."""
    busy, idle = side.captured[0, at], side.captured[1 : len(PARTS), at].sum()
    return float(busy) / max(side.all_steps, 1), float(idle) / max(side.all_steps, 1)


def _captured_count(side: Side, name: str, at: int) -> float:
    return float(side.captured[COUNTS[name], at]) / max(side.all_steps, 1)
