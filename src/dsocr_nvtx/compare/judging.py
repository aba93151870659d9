"""From paired steps to verdicts: the change of each row's busy, idle and wall time, and whether it can be told."""

from collections.abc import Sequence

import numpy as np
from attrs import evolve, frozen

from dsocr_nvtx.compare.lines import Moved
from dsocr_nvtx.compare.noise import ENOUGH_STEPS, SINGLE, Bound, Spread, repeated, typical
from dsocr_nvtx.compare.verdicts import Limits, Verdict, judge
from dsocr_nvtx.roofline.least import Floats

FEWEST_PEERS = 3
"""Peers that a common drift is read from, at least."""


@frozen(kw_only=True, eq=False)
class Series:
    """A row's times in paired steps, ns per unit; its launches per unit; what rows must share to be peers.

    ``launch_spread`` is how many launches drift as one: a row's all; of a sum each kind's, and kinds drift apart.
    ``comparable`` says why the two are no equal work, or is empty.
    """

    busy: tuple[Floats, Floats]
    idle: tuple[Floats, Floats]
    launches: tuple[float, float]
    launch_spread: float
    call_spread: float
    likeness: object
    is_row: bool = True
    comparable: str = ""

    @property
    def once(self) -> bool:
        """Whether too few steps are there to tell noise from."""
        return len(self.busy[0]) < ENOUGH_STEPS

    @property
    def base(self) -> float:
        """The mean of both runs' typical busy time."""
        return (typical(self.busy[0]) + typical(self.busy[1])) / 2

    @property
    def least(self) -> float:
        """The smaller of both runs' typical busy time."""
        return min(typical(self.busy[0]), typical(self.busy[1]))


@frozen(kw_only=True)
class Judged:
    """The three times of a row; what its peers' busy times did, and whether the verdict is by them."""

    busy: Moved
    idle: Moved
    wall: Moved
    drift: float | None = None
    peers: int = 0
    against_peers: bool = False


def judge_all(rows: Sequence[Series], limits: Limits, spread: Spread) -> list[Judged]:
    """Return each row's times and verdicts; rows with peers are held against them as well."""
    judged = [_judged(row, limits, spread) for row in rows]
    kin: dict[object, list[int]] = {}
    for at, row in enumerate(rows):
        if row.base and not row.comparable and row.launches[0] == row.launches[1]:
            kin.setdefault(row.likeness, []).append(at)
    answer = list(judged)
    for members in kin.values():
        for at in members:
            others = [judged[other].busy for other in members if other != at]
            if len(others) >= FEWEST_PEERS:
                answer[at] = _beside_peers(rows[at], judged[at], others, limits)
    return [_unless_alone(row, one, limits) for row, one in zip(rows, answer, strict=True)]


def _unless_alone(row: Series, judged: Judged, limits: Limits) -> Judged:
    """Return the verdict without ``same`` where no peers tell how far the row drifted and it may drift a lot."""
    busy = judged.busy
    drifts = busy.allowance > _smallest(row, limits)
    if judged.peers or busy.verdict != Verdict.SAME or not drifts:
        return judged
    return evolve(judged, busy=evolve(busy, verdict=Verdict.INCONCLUSIVE))


def _smallest(row: Series, limits: Limits) -> float:
    return max(limits.busy_min * row.least, limits.busy_floor_ns)


def residuals(rows: Sequence[Series]) -> tuple[Floats, Floats, Floats]:
    """Return how far rows that ran once moved from the median of their peers, with their times and launches."""
    kin: dict[object, list[tuple[float, float, float]]] = {}
    for row in rows:
        if row.base and row.once and not row.comparable and row.launches[0] == row.launches[1]:
            change = float(row.busy[1].mean() - row.busy[0].mean())
            kin.setdefault(row.likeness, []).append((change / row.base, row.base, row.launches[0]))
    found = [
        ((change - float(np.median([one[0] for one in members]))) * base, base, launches)
        for members in kin.values()
        if len(members) > FEWEST_PEERS
        for change, base, launches in members
    ]
    table = np.array(found, np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


@frozen(kw_only=True)
class Allowances:
    """What two runs of one code may differ by in ns per unit, and the smallest change that counts."""

    busy: float
    idle: float
    busy_min: float
    idle_min: float


def allowances(row: Series, limits: Limits) -> Allowances:
    """Return what is allowed for between runs: of a row its launches drift as one, of a sum each kind by itself."""
    relative = limits.busy_allowed * row.base
    launching = (limits.launch_ns if row.is_row else limits.sum_launch_ns) * row.launch_spread
    usual, calling = [typical(idle) for idle in row.idle], limits.idle_call_ns * row.call_spread
    idle = limits.idle_allowed * sum(usual) / 2 + calling
    return Allowances(
        busy=relative + launching if row.is_row else float(np.hypot(relative, launching)),
        idle=idle * limits.once_factor + limits.once_stall_ns if row.once else idle,
        busy_min=_smallest(row, limits),
        idle_min=limits.idle_allowed * min(usual) + calling,
    )


def judge_idle_once(a: float, b: float, calls: float, limits: Limits) -> Verdict:
    """Return the verdict on idle time of calls that a run makes once, outside its steps: only equal is the same."""
    usual = limits.idle_allowed * (a + b) / 2 + limits.idle_call_ns * calls
    return judge(b - a, 0.0, allowance=usual * limits.once_factor + limits.once_stall_ns, smallest=0.0)


def _judged(row: Series, limits: Limits, spread: Spread) -> Judged:
    wall = (row.busy[0] + row.idle[0], row.busy[1] + row.idle[1])
    single = SINGLE * float(spread.of(row.base, max(sum(row.launches) / 2, 1.0)))
    allowed = allowances(row, limits)
    negligible = max(limits.busy_min * min(map(typical, wall)), limits.busy_floor_ns)
    both = allowed.busy + allowed.idle, allowed.busy_min + allowed.idle_min
    return Judged(
        busy=_moved(row, row.busy, single, allowed.busy, allowed.busy_min),
        idle=_unless_once(row, _moved(row, row.idle, 0.0, allowed.idle, allowed.idle_min, negligible)),
        wall=_unless_once(row, _moved(row, wall, single, *both, negligible)),
    )


def _unless_once(row: Series, moved: Moved) -> Moved:
    """Return a time with idle in it without ``same`` where too few steps ran: nothing bounds its noise.

    Equal times stay the same, and what moved by more than is allowed for is a change.
    """
    if row.once and moved.verdict == Verdict.SAME and moved.low < moved.high:
        return evolve(moved, verdict=Verdict.INCONCLUSIVE)
    return moved


def _moved(
    row: Series, times: tuple[Floats, Floats], single: float, allowance: float, smallest: float,
    negligible: float | None = None,
) -> Moved:  # fmt: skip
    a, b = times
    bound = _bound(a, b, single)
    if not row.is_row:  # errors of many kinds, which do not know of each other
        allowance = float(np.hypot(bound.half, allowance)) - bound.half
    verdict = judge(bound.change, bound.half, allowance=allowance, smallest=smallest, negligible=negligible)
    if row.comparable and (bound.change or bound.half or not len(a)):
        verdict = Verdict.INCONCLUSIVE
    if (a == b).all():
        allowance = 0.0  # the same run, or a row that took no time: there is nothing to allow for
    wide = bound.half + allowance
    means = (float(one.mean()) if len(one) else 0.0 for one in times)
    mean_a, mean_b = means
    usual_a, usual_b = typical(a), typical(b)
    return Moved(
        a=mean_a, b=mean_b, change=bound.change, half=bound.half, allowance=allowance,
        low=bound.change - wide, high=bound.change + wide, typical=usual_a, base=(usual_a + usual_b) / 2,
        verdict=verdict,
    )  # fmt: skip


def _bound(a: Floats, b: Floats, single: float) -> Bound:
    if (a == b).all():
        return Bound(0.0, 0.0)
    if len(a) >= ENOUGH_STEPS:
        return repeated(b - a)
    return Bound(float(b.mean() - a.mean()), single)


def _beside_peers(row: Series, judged: Judged, others: Sequence[Moved], limits: Limits) -> Judged:
    """Return the verdict that peers allow. They have the same kernels, so what moves them all is not this row's doing.

    A drift larger than two runs of one code may show is a change of all of them, and no measure for one.
    """
    busy = judged.busy
    changes = [one.change / _base(one) for one in others]
    drift = float(np.median(changes))
    told = evolve(judged, drift=drift, peers=len(others))
    if busy.verdict.is_change or abs(drift) * row.base > allowances(row, limits).busy:
        return told
    doubt = 1.25 * float(np.median([one.half / _base(one) for one in others])) / np.sqrt(len(others))
    half = float(np.hypot(busy.half, doubt * row.base))
    if row.once:  # what peers scatter by between the runs, where that is more than usual
        scatter = 1.4826 * float(np.median(np.abs(np.array(changes) - drift)))
        half = max(half, SINGLE * scatter * row.base) if busy.half else half
    allowance = limits.peer_allowed * row.base + limits.peer_launch_ns * float(np.sqrt(sum(row.launches) / 2))
    allowance = 0.0 if row.once else allowance  # the spread of what ran once holds it already
    alone = busy.change - drift * row.base
    verdict = judge(alone, half, allowance=allowance, smallest=_smallest(row, limits))
    if not verdict.is_change and verdict != busy.verdict:
        verdict = Verdict.INCONCLUSIVE
    if not (busy.change or busy.half or drift):
        return told
    low = min(alone - half - allowance, busy.change - busy.half)
    high = max(alone + half + allowance, busy.change + busy.half)
    return evolve(told, busy=evolve(busy, verdict=verdict, low=low, high=high), against_peers=verdict.is_change)


def _base(moved: Moved) -> float:
    return moved.base or 1.0
