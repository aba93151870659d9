"""The causes of a stage's change, by name, ranked by what they cost a step: kernels, layers, rows, idle times, stalls.

`dsocr_nvtx.compare.explain` proposes; what it proposes is named only if the verdict on its time is better or worse, by
the rules of `dsocr_nvtx.compare.verdicts`. A difference that all kernels of a stage share is taken off before, up to
what clocks differ by between runs.
"""

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from dsocr_nvtx.compare.cause import Cause, Opened, Place, told_together
from dsocr_nvtx.compare.cells import Cells, Operations, busy_cells, idle_cells, row_cells, rows_by_key
from dsocr_nvtx.compare.explain import Explained, What, explain, family, fitted_factor
from dsocr_nvtx.compare.judging import Series, judge_all
from dsocr_nvtx.compare.noise import SINGLE, Spread
from dsocr_nvtx.compare.pairs import StagePair
from dsocr_nvtx.compare.series import call_spread, unlike
from dsocr_nvtx.compare.verdicts import Limits, Verdict
from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.roofline.least import Floats

CLOCKS = 0.02
"""Share by which the clocks of two runs may differ: so much, common to all kernels, is not any kernel's doing."""
_SURE = 2.2
"""How many times the usual noise and launch allowance a cause must stand out by: the best of thousands is looked at."""
_LAUNCH = 0.017
"""Share by which one launch of a kernel may differ from itself in another run, as a standard deviation."""
_MORE = 0.005
"""Share by which a cause must have changed beyond what counts as a change in a row that is not chosen of many."""
_MATTERS = 0.001
"""Share of a stage's busy time below which a cause is not named."""


def busy_causes(
    pair: StagePair, a: Operations | None, b: Operations | None, limits: Limits, spread: Spread
) -> list[Cause]:
    """Return the kernels, layers and rows whose time changed for sure; only rows where a join has no kernels."""
    if not pair.steps:
        return []
    cells = row_cells(pair) if a is None or b is None else busy_cells(pair, a, b)
    usual_a, usual_b = cells.usual
    common = _common(usual_a, usual_b)
    rows = rows_by_key(pair)
    matters = _MATTERS * max(float(usual_a.sum()), float(usual_b.sum()))
    limits = evolve(limits, sum_launch_ns=_SURE * limits.launch_ns, busy_min=limits.busy_min + _MORE)
    spread = evolve(spread, factor=_SURE * spread.factor)

    def accepts(one: Explained) -> bool:
        if abs(one.cost) < matters:
            return False
        place = sorted({rows[cells.cells[at][:3]] for at in one.members.tolist() if cells.cells[at][:3] in rows})
        series = _busy_series(cells, one, usual_a, _unequal(pair, place))
        busy = judge_all([series], limits, spread)[0].busy
        least = _alone(cells, one.members) if series.once else 0.0
        return _agrees(one, usual_b) and busy.verdict.is_change and abs(busy.change) > least

    found = explain(cells.cells, usual_a * common, usual_b, accepts, families=True)
    return told_together([_cause(pair, cells, one, "kernel", taken) for one, taken in _taken(found)])


def _common(a: Floats, b: Floats) -> float:
    """Return the factor that all kernels share, as a clock's; 1 where it is more than clocks can do."""
    both = (a > 0) & (b > 0)
    factor = fitted_factor(a[both], b[both])
    return factor if factor is not None and abs(factor - 1) <= CLOCKS else 1.0


def _alone(cells: Cells, members: Ints) -> float:
    """Return what the launches of a set that ran once must change by together, in ns; half of a row's are alike."""
    time = np.add(*(usual[members] for usual in cells.usual)) / 2
    launches = np.maximum((cells.a_count + cells.b_count)[members] / 4, 1.0)
    return _SURE * SINGLE * _LAUNCH * float(np.sqrt((time**2 / launches).sum()))


def _agrees(one: Explained, b: Floats) -> bool:
    """Say whether most of what happened to the whole set is what its factor says."""
    happened = float(b[one.members].sum() - one.before.sum())
    return happened * one.cost > 0 and abs(one.cost) >= abs(happened) / 2


def _unequal(pair: StagePair, rows: Sequence[int]) -> str:
    """Return why some rows are no equal work; that only one run has them is a finding and no reason."""
    reasons = (unlike(pair, [row]) for row in rows)
    return next((reason for reason in reasons if reason and not reason.startswith("only in")), "")


def _expected(cells: Cells, one: Explained, usual: Floats) -> Floats:
    """Return A's time of a set in each step, times what was found of its cells already; ``usual`` is A's typical."""
    had = usual[one.members] > 0
    scale = np.divide(one.before, usual[one.members], where=had, out=np.ones(len(one.members)))
    return np.asarray(scale @ cells.a[one.members] + one.before[~had].sum(), np.float64)


def _busy_series(cells: Cells, one: Explained, usual: Floats, unequal: str) -> Series:
    """Return the times of a set per step, A's as they were expected."""
    members = one.members
    expected = _expected(cells, one, usual)
    now = cells.b[members].sum(axis=0)
    still = np.zeros(len(now))
    kinds: dict[tuple[str, str], float] = {}
    for at in members.tolist():
        key = cells.cells[at].kind, cells.cells[at].name
        kinds[key] = kinds.get(key, 0.0) + float(cells.a_count[at] + cells.b_count[at]) / 2
    launches = float(cells.a_count[members].sum()), float(cells.b_count[members].sum())
    return Series(
        busy=(expected, now), idle=(still, still), launches=launches,
        launch_spread=float(np.sqrt(sum(count**2 for count in kinds.values()))), call_spread=0.0, likeness=object(),
        is_row=False, comparable=unequal,
    )  # fmt: skip


def idle_causes(pair: StagePair, limits: Limits, spread: Spread) -> list[Cause]:
    """Return the idle times that changed for sure, by row and cause."""
    if not pair.steps:
        return []
    cells = idle_cells(pair)
    usual_a, usual_b = cells.usual
    rows = rows_by_key(pair)

    def accepts(one: Explained) -> bool:
        place = sorted({rows[cells.cells[at][:3]] for at in one.members.tolist()})
        a, b = _expected(cells, one, usual_a), cells.b[one.members].sum(axis=0)
        still = np.zeros(len(a))
        series = Series(
            busy=(still, still), idle=(a, b), launches=(0.0, 0.0), launch_spread=0.0,
            call_spread=call_spread(pair, place), likeness=object(), is_row=False, comparable=_unequal(pair, place),
        )  # fmt: skip
        return _agrees(one, usual_b) and judge_all([series], limits, spread)[0].idle.verdict.is_change

    found = explain(cells.cells, usual_a, usual_b, accepts, families=False)
    return told_together([_cause(pair, cells, one, "idle", taken) for one, taken in _taken(found)])


def _taken(found: Sequence[Explained]) -> list[tuple[Explained, float]]:
    """Return what was found, each with what causes found before it explain in its cells already, in ns per unit."""
    told: list[tuple[Explained, float]] = []
    done: dict[int, float] = {}
    for one in found:
        told.append((one, sum(done.get(at, 0.0) for at in one.members.tolist())))
        for at, change in zip(one.members.tolist(), (one.after - one.before).tolist(), strict=True):
            done[at] = done.get(at, 0.0) + change
    return told


def _cause(pair: StagePair, cells: Cells, one: Explained, sort: str, taken: float) -> Cause:
    usual_a, usual_b = cells.usual
    members = one.members
    first = cells.cells[int(members[0])]
    a, b = float(usual_a[members].sum()), float(usual_b[members].sum())
    named = one.what in (What.NAME, What.FAMILY, What.NAME_IN_ROWS, What.NAME_IN_ROW)
    layers = sorted({cells.cells[at].layer for at in members.tolist() if cells.cells[at].layer >= 0})
    cost = b - a - taken
    return Cause(
        stage=pair.stage, unit=pair.unit, sort="rows" if sort == "kernel" and not named else sort, what=one.what,
        name=(f"{family(first.name)}*" if one.what == What.FAMILY else first.name) if named else "",
        module="" if one.what in (What.NAME, What.FAMILY, What.STAGE) else first.module,
        kind=first.kind if one.what in (What.ROWS, What.ROW, What.NAME_IN_ROWS, What.NAME_IN_ROW) else "",
        layers=() if one.what in (What.NAME, What.FAMILY, What.STAGE) else tuple(layers),
        verdict=Verdict.WORSE if cost > 0 else Verdict.BETTER, a_ns=a, b_ns=b, cost=cost,
        a_count=float(cells.a_count[members].sum()), b_count=float(cells.b_count[members].sum()),
        places=_places(cells, members), kernels=_kernels(cells, members),
    )  # fmt: skip


def _places(cells: Cells, members: Ints) -> tuple[Place, ...]:
    """Return where a set lies, by module and kind, the place with the largest change first."""
    usual_a, usual_b = cells.usual
    found: dict[tuple[str, str], tuple[set[int], float]] = {}
    for at in members.tolist():
        cell = cells.cells[at]
        layers, cost = found.get((cell.module, cell.kind), (set(), 0.0))
        found[cell.module, cell.kind] = layers | {cell.layer}, cost + float(usual_b[at] - usual_a[at])
    places = [
        Place(module=module, kind=kind, layers=tuple(sorted(one for one in layers if one >= 0)), cost=cost)
        for (module, kind), (layers, cost) in found.items()
    ]
    return tuple(sorted(places, key=lambda place: -abs(place.cost)))


def _kernels(cells: Cells, members: Ints) -> tuple[Opened, ...]:
    """Return the names in a set with their launches and times, the largest change first."""
    usual_a, usual_b = cells.usual
    found: dict[str, Floats] = {}
    for at in members.tolist():
        sums = np.array([cells.a_count[at], cells.b_count[at], usual_a[at], usual_b[at]])
        found[cells.cells[at].name] = found.get(cells.cells[at].name, np.zeros(4)) + sums
    opened = [
        Opened(name=name, a_count=float(one[0]), b_count=float(one[1]), a_ns=float(one[2]), b_ns=float(one[3]))
        for name, one in found.items()
    ]
    return tuple(sorted(opened, key=lambda kernel: (-abs(kernel.cost), kernel.name)))
