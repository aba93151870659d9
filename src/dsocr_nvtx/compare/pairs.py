"""Which rows and steps of two runs of a stage stand beside each other, and in what unit their times are told.

Steps pair by KV length where both runs' lengths tell steps apart and overlap, else by their number. Times are per step
where paired steps handle equally many tokens, else per token. Where only some steps have a partner, only those are
compared, and the pair says so.
"""

import numpy as np
from attrs import evolve, frozen

from dsocr_nvtx.compare.steps import Key, Shape, StageRun
from dsocr_nvtx.join.columns import Ints

NO_SHAPE: Shape = frozenset()


@frozen(kw_only=True, eq=False)
class Side:
    """One run's part of a pair: its cube, rows in the pair's order, steps that have a partner, units they stand for.

    ``present`` says which rows this run has at all; those it lacks are zero. ``step`` are the paired steps' numbers.
    """

    values: Ints
    present: list[bool]
    shapes: list[Shape]
    reads_cache: list[bool]
    captured: Ints
    units: int
    tokens: int
    all_steps: int
    step: Ints


@frozen(kw_only=True, eq=False)
class StagePair:
    """A stage of two runs. ``keys`` are the rows of either, in canonical order; ``notes`` what a reader must know."""

    stage: str
    unit: str
    keys: list[Key]
    captured_keys: list[Key]
    a: Side
    b: Side
    steps: int
    same_cache: bool
    notes: list[str]


def pair_stage(a: StageRun, b: StageRun) -> StagePair:
    """Return two runs of one stage, rows and steps beside each other."""
    ia, ib, by_cache, notes = _steps(a, b)
    unit = "step" if len(ia) and (a.tokens[ia] == b.tokens[ib]).all() else "token"
    if unit == "token" and not (a.tokens[ia].sum() and b.tokens[ib].sum()):
        unit = "step"
    if unit == "token":
        notes.append(f"{a.stage}: tokens a step differ; times are per token")
    keys = sorted({*a.keys, *b.keys}, key=lambda key: key.sort_key)
    captured = sorted({*a.captured_keys, *b.captured_keys}, key=lambda key: key.sort_key)
    sides = (_side(run, steps, keys, captured, unit) for run, steps in ((a, ia), (b, ib)))
    one, two = sides
    return StagePair(
        stage=a.stage, unit=unit, keys=keys, captured_keys=captured, a=one, b=two, steps=len(ia), same_cache=by_cache,
        notes=notes,
    )  # fmt: skip


def _steps(a: StageRun, b: StageRun) -> tuple[Ints, Ints, bool, list[str]]:
    """Return paired steps as positions in each run, whether paired steps read equally long caches, and notes."""
    told = all(len(np.unique(run.kv_len)) == len(run.kv_len) and run.kv_len.all() for run in (a, b))
    if told:
        _, ia, ib = np.intersect1d(a.kv_len, b.kv_len, return_indices=True)
        if len(ia):
            return ia, ib, True, _partial(a, b, len(ia), f"KV lengths {a.kv_len[ia].min()} to {a.kv_len[ia].max()}")
    _, ia, ib = np.intersect1d(a.step, b.step, return_indices=True)
    if not len(ia):  # captures of different windows: the first with the first
        ia = ib = np.arange(min(len(a.step), len(b.step)))
    equal = bool((a.kv_len[ia] == b.kv_len[ib]).all())
    notes = _partial(a, b, len(ia), "step numbers")
    if not equal:
        spans = (f"{run.kv_len.min()} to {run.kv_len.max()}" for run in (a, b))
        notes.append(f"{a.stage}: KV lengths {' against '.join(spans)}; rows that read the cache are not equal work")
    return ia, ib, equal, notes


def absent(other: StageRun) -> StageRun:
    """Return a run that has the other's steps and nothing in them, to stand beside a stage that only one run has."""
    return evolve(
        other, keys=[], shapes=[], reads_cache=other.reads_cache[:0], values=other.values[:, :0], captured_keys=[],
        captured=other.captured[:, :0],
    )  # fmt: skip


def _partial(a: StageRun, b: StageRun, paired: int, by: str) -> list[str]:
    if paired == len(a.step) == len(b.step):
        return []
    return [f"{a.stage}: {paired} steps compared, by equal {by}; A has {len(a.step)} steps, B has {len(b.step)}"]


def _side(run: StageRun, steps: Ints, keys: list[Key], captured: list[Key], unit: str) -> Side:
    place = {key: row for row, key in enumerate(run.keys)}
    once = {key: row for row, key in enumerate(run.captured_keys)}
    values = np.zeros((len(run.values), len(keys), len(steps)), np.int64)
    have = [row for row, key in enumerate(keys) if key in place]
    if have:
        values[:, have] = run.values[:, [place[keys[row]] for row in have]][:, :, steps]
    captures = np.zeros((len(run.values), len(captured)), np.int64)
    for row, key in enumerate(captured):
        if key in once:
            captures[:, row] = run.captured[:, once[key]]
    return Side(
        values=values,
        present=[key in place for key in keys] + [key in once for key in captured],
        shapes=[run.shapes[place[key]] if key in place else NO_SHAPE for key in keys],
        reads_cache=[bool(key in place and run.reads_cache[place[key]]) for key in keys],
        captured=captures,
        units=int(run.tokens[steps].sum()) if unit == "token" else len(steps),
        tokens=int(run.tokens[steps].sum()),
        all_steps=len(run.step),
        step=run.step[steps],
    )
