"""How full the steps of a serving engine were: sequences and rows by stage, over time, and rows that only pad.

Workers of one engine tell the same steps: of processes whose steps share a request, one counts.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from attrs import frozen

from dsocr_nvtx.join.columns import Ints, known, numbers, rows_with
from dsocr_nvtx.roofline.least import Floats


@frozen(kw_only=True)
class Batch:
    """The steps of one stage: means of sequences, rows and time; rows run and rows that pad, of steps that tell it."""

    stage: str
    steps: int
    prefill: float
    decode: float
    most: int
    rows: float
    step_ns: float
    padded_rows: int
    padding_rows: int

    @property
    def waste(self) -> float | None:
        """The share of rows that only pad, None where no step tells."""
        return self.padding_rows / self.padded_rows if self.padded_rows else None


@frozen(eq=False)
class Composition:
    """Sequences in steps over time: means over intervals of one length, from the first begin to the last end."""

    begin_ns: int
    interval_ns: float
    prefill: Floats
    decode: Floats


def counted(steps: pa.Table) -> pa.Table:
    """Return the rows of a SERVED_STEPS table that count: those of workers that repeat another's are left out."""
    seen: set[str] = set()
    kept = []
    for pid in dict.fromkeys(steps["pid"].to_pylist()):
        names = {
            name for row in steps.filter(np.equal(numbers(steps, "pid"), pid))["requests"].to_pylist() for name in row
        }
        if not names & seen:
            kept.append(pid)
        seen |= names
    return steps.filter(pa.array(np.isin(numbers(steps, "pid"), kept)))


def batches(steps: pa.Table) -> Iterator[Batch]:
    """Yield what the steps of each stage worked on, in the order in which stages first ran."""
    for stage in dict.fromkeys(steps["stage"].to_pylist()):
        mine = steps.filter(pa.array(rows_with(steps, "stage", stage)))
        prefill, decode, rows, padded = (
            numbers(mine, name) for name in ("sequences_prefill", "sequences_decode", "rows", "padded_rows")
        )
        told = known(mine, "padded_rows")
        yield Batch(
            stage=stage,
            steps=len(mine),
            prefill=float(prefill.mean()),
            decode=float(decode.mean()),
            most=int((prefill + decode).max()),
            rows=float(rows.mean()),
            step_ns=float((numbers(mine, "end_ns") - numbers(mine, "start_ns")).mean()),
            padded_rows=int(padded[told].sum()),
            padding_rows=int(np.maximum(padded - rows, 0)[told].sum()),
        )


def composition(steps: pa.Table, most: int = 120) -> Composition | None:
    """Return how many sequences were in steps over time, in at most so many intervals; None without steps."""
    if not len(steps):
        return None
    start, end = numbers(steps, "start_ns"), numbers(steps, "end_ns")
    edges = np.linspace(0, int(end.max() - start.min()), most + 1)
    each = (numbers(steps, name) for name in ("sequences_prefill", "sequences_decode"))
    prefill, decode = (_means(start - start.min(), end - start.min(), count, edges) for count in each)
    return Composition(int(start.min()), float(edges[1]), prefill, decode)


def _means(start: Ints, end: Ints, count: Ints, edges: Floats) -> Floats:
    """Return the mean number under way between edges: the difference of what lies before each, over the interval."""
    before = np.array([float((np.clip(edge - start, 0, end - start) * count).sum()) for edge in edges])
    return np.diff(before) / max(float(edges[1]), 1.0)
