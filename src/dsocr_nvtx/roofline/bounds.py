"""What binds a row: the largest part of its wall time, by the same time budget that is shown beside it.

- ``host`` or ``queued``: most is idle time, and most of that is the host's (its code, launch, synchronising and memory
  calls), or came after the launch calls had long returned: gaps in a replayed graph, dependencies.
- ``compute``, ``memory`` or ``l2``: the roofs take at least `THRESHOLD` of busy time. Calls are judged one by one: each
  adds its least time to the roof that it is at, and the largest of the three sums names the row.
- ``unfused``: tax kernels take more than the inefficiency of the others.
- ``small`` or ``inefficient``: the others lose more. Small where most of their time is in kernels that are short, or of
  less than one wave (`dsocr_nvtx.roofline.operations`).

A roof's time may be the largest part below the threshold: then the larger of the two losses, which together take more
than 40 % of busy time, is what there is to say.
"""

from collections.abc import Mapping

import numpy as np

from dsocr_nvtx.join.columns import Ints
from dsocr_nvtx.roofline.least import Floats

THRESHOLD = 0.6
"""A busy row is bound by a roof when the roofs' time is at least this share of its busy time."""

ROOF_BOUNDS = ("compute", "memory", "l2")
IDLE_BOUNDS = ("host", "queued")
BOUNDS = [*IDLE_BOUNDS, *ROOF_BOUNDS, "unfused", "small", "inefficient"]

Times = Mapping[str, Ints]


def busy_parts(busy: Ints, tax: Ints, floor: Ints) -> tuple[Ints, Ints, Ints]:
    """Return what owned busy time is made of: roofline time as far as it was busy that long, tax, inefficiency."""
    roof = np.minimum(floor, busy)
    taxed = np.minimum(tax, busy - roof)
    return roof, taxed, busy - roof - taxed


def firm_bound_of(time: Times, at: Mapping[str, Floats], uncertain: Ints) -> Ints:
    """Return `bound_of` each row where it is the same whatever the cost of its ``uncertain`` busy time is, else -1.

    That time may be all inefficiency or all roofline time, at any roof, or anything between.
    """
    floor = np.rint(np.sum([at[name] for name in ROOF_BOUNDS], axis=0)).astype(np.int64)
    found = bound_of(time, floor, at)
    if not uncertain.any():
        return found
    roof, _, inefficiency = busy_parts(time["busy_owned_ns"], time["tax_ns"], floor)
    # All else changes only one way as roofline time grows; idle time is largest where the two parts are equal, if ever.
    for more in (np.clip((inefficiency - roof) // 2, 0, uncertain), uncertain):
        for name in ROOF_BOUNDS:
            found = np.where(bound_of(time, floor + more, {**at, name: at[name] + more}) == found, found, -1)
    return found


def bound_of(time: Times, floor: Ints, at: Mapping[str, Floats]) -> Ints:
    """Return what binds each row as a position in `BOUNDS`, -1 where it took no device time.

    ``time`` has the rows' times as in ROOFLINE, ``floor`` their roofline time, ``at`` the sums of the least times of
    calls that are at each of `ROOF_BOUNDS`.
    """
    busy, idle, tax = time["busy_owned_ns"], time["idle_owned_ns"], time["tax_ns"]
    roof, taxed, inefficiency = busy_parts(busy, tax, floor)
    queued, small = 2 * time["idle_queued_ns"] > idle, 2 * time["small_ns"] > busy - tax
    nearest = np.argmax([at[name] for name in ROOF_BOUNDS], axis=0)
    code = {name: BOUNDS.index(name) for name in BOUNDS}
    answer = np.where(small, code["small"], code["inefficient"])
    answer = np.where(taxed > inefficiency, code["unfused"], answer)
    answer = np.where(roof >= THRESHOLD * busy, code[ROOF_BOUNDS[0]] + nearest, answer)
    is_idle = idle > np.maximum(roof, np.maximum(taxed, inefficiency))
    answer = np.where(is_idle, np.where(queued, code["queued"], code["host"]), answer)
    return np.where(busy + idle > 0, answer, -1)
