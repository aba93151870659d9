"""The run directory's own table against the report: two records of one run must tell the same."""

import numpy as np
import pyarrow as pa

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import numbers
from dsocr_nvtx.join.inclusive import exclusive_table
from dsocr_nvtx.schema.records import COST_FIELDS

_COMPARED = ("step", "batch", "tokens", "kv_len", *COST_FIELDS)


def check_run(ranges: pa.Table, recorded: pa.Table, where: str) -> int:
    """Return how many ranges both records hold; refuse a run directory that is another run's.

    ``ranges`` is a MEASURED table, ``recorded`` a RANGES table. Calls are matched by event id; a report may hold fewer
    of them (a capture window), never other ones.
    """
    if len(ranges["pid"].unique()) != 1:
        raise Refused(where, "a run directory holds one process, the report several", "join without --run")
    for name in ("event_id", *_COMPARED):
        if name not in recorded.column_names:
            raise Refused(where, f"a table without the column {name}, so no run's ranges", "give a run's directory")
    recorded = exclusive_table(recorded, where)
    event, known = numbers(ranges, "event_id"), numbers(recorded, "event_id")
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], event), max(len(known) - 1, 0))
    if not len(known) or (known[order][place] != event)[event >= 0].any():
        raise Refused(where, "the report has calls that this run did not record", "give the directory of the same run")
    row = order[place]
    priced = np.logical_or.reduce([numbers(ranges, name) > 0 for name in COST_FIELDS])
    told = np.flatnonzero((event >= 0) & priced)
    for name in _COMPARED:
        if (numbers(ranges, name)[told] != numbers(recorded, name)[row][told]).any():
            raise Refused(where, f"its {name} differ from the report's", "give the directory of the same run")
    return len(told)
