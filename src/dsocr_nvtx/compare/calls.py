"""CUDA calls of the host that changed: more or fewer, slower or faster, new or gone, by function.

They are told beside the causes: a call that lasts longer costs a step only where the GPU waits for it, and that is idle
time, which has causes of its own.
"""

import numpy as np

from dsocr_nvtx.compare.cause import Cause
from dsocr_nvtx.compare.cells import Cells, call_cells
from dsocr_nvtx.compare.explain import What
from dsocr_nvtx.compare.judging import Series, judge_all
from dsocr_nvtx.compare.noise import Spread
from dsocr_nvtx.compare.outs import Out
from dsocr_nvtx.compare.pairs import StagePair
from dsocr_nvtx.compare.verdicts import Limits, Verdict

_COUNTS = 0.02
"""Share by which the number of a function's calls must differ to be told: an allocator's vary a little."""


def call_changes(pair: StagePair, a: Out, b: Out, limits: Limits) -> list[Cause]:
    """Return the functions whose calls changed in number, or in time beyond the host's allowance; the longest first."""
    if a.host_calls is None or b.host_calls is None or not pair.steps:
        return []
    cells = call_cells(pair, a.host_calls, b.host_calls)
    found = [_change(pair, cells, at, limits) for at in range(len(cells.cells))]
    return sorted((one for one in found if one is not None), key=lambda cause: (-abs(cause.cost), cause.name))


def _change(pair: StagePair, cells: Cells, at: int, limits: Limits) -> Cause | None:
    """Return what became of one function's calls, None where nothing did for sure."""
    a_count, b_count = float(cells.a_count[at]), float(cells.b_count[at])
    still = np.zeros(cells.a.shape[1])
    series = Series(
        busy=(still, still), idle=(cells.a[at], cells.b[at]), launches=(0.0, 0.0), launch_spread=0.0,
        call_spread=float(np.sqrt((a_count + b_count) / 2)), likeness=object(), is_row=False,
    )  # fmt: skip
    verdict = judge_all([series], limits, Spread())[0].idle.verdict
    if not verdict.is_change:
        if abs(b_count - a_count) <= _COUNTS * max(a_count, b_count):
            return None
        verdict = Verdict.INCONCLUSIVE  # another number for sure, but not another time
    usual_a, usual_b = (float(usual[at]) for usual in cells.usual)
    return Cause(
        stage=pair.stage, unit=pair.unit, sort="call", what=What.NAME, name=cells.cells[at].name, verdict=verdict,
        a_ns=usual_a, b_ns=usual_b, cost=usual_b - usual_a, a_count=a_count, b_count=b_count,
    )  # fmt: skip
