"""How records that cannot be weigh on a verdict: few of them do not, and with many there is none."""

import pyarrow as pa
from attrs import evolve

from dsocr_nvtx.join.accounting import Accounting
from dsocr_nvtx.roofline.points import Roofline

MOST_APART = 0.05
"""Share of a report's operations that may be set apart; what more of them took is not known, and could bind a stage."""


def set_apart_share(accounting: Accounting) -> float:
    """Return the share of a report's GPU operations that were set apart."""
    apart = sum(one.records for one in accounting.set_apart if one.what == "GPU operation")
    return apart / max(apart + accounting.operations, 1)


def weighed(found: Roofline, accounting: Accounting) -> Roofline:
    """Return the roofline, ``bound`` null in every stage and row where too much of the report was set apart."""
    if set_apart_share(accounting) <= MOST_APART:
        return found
    return evolve(found, rows=_unjudged(found.rows), stages=_unjudged(found.stages))


def _unjudged(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("bound")
    return table.set_column(at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type))
