"""What explains a difference best: one factor on a kernel, a layer, or a kind of row; then the next best on the rest.

Cells are kernels in rows. A kernel that is slower wherever it runs, a layer whose every kernel is slower, and a row
that changed alone all change the same cells, but only one of them leaves nothing over. The candidates are all sets of
cells with a name in common; each is tried with the factor that fits it best (the median of its cells' ratios, weighted
by their time), and what it explains is how much smaller the differences that remain are. The best is taken first, what
it predicts is put in place of A, and the search goes on. A set that has no time in A is new, and explains what B has.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from enum import StrEnum

import numpy as np
from attrs import frozen

from dsocr_nvtx.compare.cells import Cell
from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.roofline.least import Floats

_TRIES = 200
"""Sets that are tried at most, the best first."""


class What(StrEnum):
    """What the cells of a set have in common; of sets that explain as much, the earlier one is meant."""

    NAME = "name"
    FAMILY = "family"
    ROWS = "rows"
    LAYER = "layer"
    ROW = "row"
    NAME_IN_ROWS = "name in rows"
    STAGE = "stage"
    MODULE = "module"
    NAME_IN_ROW = "name in row"


_PLACE = {what: place for place, what in enumerate(What)}
_PREFERENCE = 0.004
"""Share that a set explains more than one of the `What` before it, to be taken in its place."""


@frozen(kw_only=True, eq=False)
class Explained:
    """A set of cells and what it explains: ``factor`` on their time, None for new ones; ns per unit before and after.

    ``before`` is what was expected of each cell: A's time, times the factors of what was found already.
    """

    what: What
    name: str
    members: Ints
    factor: float | None
    before: Floats
    after: Floats

    @property
    def cost(self) -> float:
        """What it adds to a unit, in ns."""
        return float(self.after.sum() - self.before.sum())


Accepts = Callable[[Explained], bool]


def family(name: str) -> str:
    """Return a kernel's name up to its first tile size: variants that a library chooses between are one family."""
    return re.split(r"_?\d+x\d+", name, maxsplit=1)[0] or name


def candidates(cells: Sequence[Cell], *, families: bool) -> Iterator[tuple[What, str, Ints]]:
    """Yield the sets of cells that can explain a change; ``families``: names are kernels', which have such."""
    sets: dict[tuple[What, Hashable], list[int]] = {}
    for at, cell in enumerate(cells):
        for what, key in _keys(cell, families=families).items():
            sets.setdefault((what, key), []).append(at)
    for (what, _), members in sorted(sets.items(), key=lambda one: _PLACE[one[0][0]]):
        yield what, cells[members[0]].name, np.array(members, np.int64)


def _keys(cell: Cell, *, families: bool) -> dict[What, Hashable]:
    keys: dict[What, Hashable] = {
        What.ROWS: (cell.module, cell.kind), What.ROW: cell[:3], What.MODULE: cell.module, What.STAGE: "",
    }  # fmt: skip
    if cell.name:
        keys |= {What.NAME: cell.name, What.NAME_IN_ROWS: (cell.module, cell.kind, cell.name), What.NAME_IN_ROW: cell}
        if families:
            keys[What.FAMILY] = family(cell.name)
    if cell.layer >= 0:
        keys[What.LAYER] = (cell.module, cell.layer)
    return keys


def explain(cells: Sequence[Cell], a: Floats, b: Floats, accepts: Accepts, *, families: bool) -> list[Explained]:
    """Return what explains the change from ``a`` to ``b`` best, in the order found; only what ``accepts`` allows."""
    sets = list(candidates(cells, families=families))
    expected, found = a.copy(), []
    scores = np.array([_score(members, expected, b, what) for what, _, members in sets])
    touching = _touching(sets, len(cells))
    for _ in range(min(_TRIES, len(sets))):
        best = int(np.argmax(scores))
        if scores[best] <= 0:
            break
        what, name, members = sets[best]
        scores[best] = -1.0
        factor = fitted_factor(expected[members], b[members])
        after = b[members] if factor is None else factor * expected[members]
        one = Explained(
            what=what, name=name, members=members, factor=factor, before=expected[members].copy(), after=after
        )
        if not accepts(one):
            continue
        found.append(one)
        expected[members] = after
        for other in {other for at in members.tolist() for other in touching[at] if scores[other] >= 0}:
            scores[other] = _score(sets[other][2], expected, b, sets[other][0])
    return found


def _touching(sets: Sequence[tuple[What, str, Ints]], count: int) -> Mapping[int, list[int]]:
    """Return, per cell, the sets that it is in."""
    found: dict[int, list[int]] = {at: [] for at in range(count)}
    for number, (_, _, members) in enumerate(sets):
        for at in members.tolist():
            found[at].append(number)
    return found


def _score(members: Ints, expected: Floats, b: Floats, what: What) -> float:
    """Return how much of the difference a set explains, a little less for sets of a later `What`."""
    before, now = expected[members], b[members]
    factor = fitted_factor(before, now)
    left = 0.0 if factor is None else float(np.abs(now - factor * before).sum())
    explained = float(np.abs(now - before).sum()) - left
    return explained * (1 - _PREFERENCE * _PLACE[what])


def fitted_factor(before: Floats, now: Floats) -> float | None:
    """Return the factor on ``before`` that leaves the smallest sum of differences; None where nothing was before."""
    told = before > 0
    if not told.any():
        return None
    ratio, weight = now[told] / before[told], before[told]
    order = np.argsort(ratio, kind="stable")
    passed = np.cumsum(weight[order])
    return float(ratio[order][np.searchsorted(passed, passed[-1] / 2)])
