"""Stalls that one run has and the other has not: a single idle time far beyond any of its row, in one step.

A typical step does not show them, and no noise bound counts them: they are told as what they are, with the step they
were in, the CUDA calls meanwhile, and what they cost a step on average.
"""

from collections.abc import Sequence

import numpy as np

from dsocr_nvtx.compare.cause import Cause
from dsocr_nvtx.compare.explain import What
from dsocr_nvtx.compare.noise import ENOUGH_STEPS, typical
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.pairs import Side, StagePair
from dsocr_nvtx.compare.steps import PARTS
from dsocr_nvtx.compare.verdicts import Limits, Verdict
from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.join.stalls import Stall

_BEYOND = 2.0
"""How many times the longest idle time of its row in the other run a stall is, at least."""


def stall_causes(pair: StagePair, a: Out, b: Out, limits: Limits) -> list[Cause]:
    """Return the stalls of either run alone; none where so few steps ran that every idle time stands alone."""
    if pair.steps < ENOUGH_STEPS:
        return []
    new = [_cause(pair, pair.b, pair.a, b, *where, Verdict.WORSE) for where in _beyond(pair.b, pair.a, limits)]
    gone = [_cause(pair, pair.a, pair.b, a, *where, Verdict.BETTER) for where in _beyond(pair.a, pair.b, limits)]
    return [*new, *gone]


def _idle(side: Side) -> Ints:
    return np.asarray(side.values[1 : len(PARTS)].sum(axis=0))


def _beyond(side: Side, other: Side, limits: Limits) -> list[tuple[int, int]]:
    """Return (row, step) of idle times longer than the other run's longest of the row by more than is allowed for.

    A row that idles longer throughout is no stall: a typical step of it must stay far below.
    """
    idle, theirs = _idle(side), _idle(other)
    longest = theirs.max(axis=1, initial=0)
    usual = np.array([typical(row.astype(np.float64)) for row in idle])
    least = _BEYOND * np.maximum(longest, usual) + limits.once_stall_ns
    rows, steps = np.nonzero(idle > least[:, None])
    return list(zip(rows.tolist(), steps.tolist(), strict=True))


def _cause(pair: StagePair, side: Side, other: Side, out: Out, row: int, at: int, verdict: Verdict) -> Cause:
    key, step = pair.keys[row], int(side.step[at])
    parts = side.values[1 : len(PARTS), row, at]
    lasted, theirs = float(parts.sum()), float(other.values[1 : len(PARTS), row, at].sum())
    units = max(side.units, 1)
    a, b = (theirs, lasted) if verdict == Verdict.WORSE else (lasted, theirs)
    return Cause(
        stage=pair.stage, unit=pair.unit, sort="stall", what=What.ROW, name=PARTS[1:][int(np.argmax(parts))],
        module=key.module, kind=key.kind, layers=(key.layer,) if key.layer >= 0 else (), verdict=verdict,
        a_ns=a, b_ns=b, cost=(b - a) / units, step=step, detail=_calls(_at(out.stalls, pair.stage, step, key.module)),
    )  # fmt: skip


def _at(stalls: Sequence[Stall], stage: str, step: int, module: str) -> Stall | None:
    """Return the longest recorded stall of a step and module, if it was long enough to be recorded."""
    mine = [one for one in stalls if (one.stage, one.step) == (stage, step) and _module(one.path) in (module, "model")]
    return max(mine, key=lambda one: one.ns, default=None)


def _module(path: str | None) -> str:
    return (path or "").partition(".")[0]


def _calls(stall: Stall | None) -> str:
    if stall is None:
        return ""
    return (
        ", ".join(f"{call.calls:,}x {call.name} {call.ns / 1e6:,.2f} ms" for call in stall.calls[:3]) or "no CUDA call"
    )
