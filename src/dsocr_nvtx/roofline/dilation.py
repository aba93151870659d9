"""What watching costs: each stage's dilation beside its times, and no verdict that the dilation alone could explain."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from attrs import evolve

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.join.columns import numbers
from dsocr_nvtx.roofline.bounds import IDLE_BOUNDS, busy_parts
from dsocr_nvtx.roofline.points import Roofline
from dsocr_nvtx.schema.directories import RUN, read_manifest


def read_dilation(run: Path) -> dict[str, float]:
    """Return the dilation of each stage as a run directory has it; empty where the run was not calibrated."""
    told = read_manifest(run).get("dilation") or {}
    try:
        found = {str(stage): float(values["ratio"]) for stage, values in told.items()}
        if all(0 < ratio < math.inf for ratio in found.values()):
            return found
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        pass
    raise Refused(run / RUN, f"a dilation that is none: {str(told)[:80]}", "give a run's directory as it was written")


def dilated(found: Roofline, dilation: Mapping[str, float]) -> Roofline:
    """Return the roofline with ``dilation`` in STAGES, and ``bound`` null where ``host`` or ``queued`` is not sure.

    Work on the GPU takes as long watched as not, so the time that watching adds is idle. A stage counts as idle only if
    idle time would still be its largest part without what watching added.
    """
    if not dilation:
        return found
    stages = found.stages
    ratio = np.array([dilation.get(stage, np.nan) for stage in stages["stage"].to_pylist()])
    wall, busy = numbers(stages, "wall_ns"), numbers(stages, "busy_owned_ns")
    # Where nothing is known, or watching made it no slower, the verdict stands.
    idle = wall / np.fmax(ratio, 1.0) - busy
    most = np.max(busy_parts(busy, numbers(stages, "tax_ns"), numbers(stages, "roofline_ns")), axis=0)
    bounds = [
        None if bound in IDLE_BOUNDS and left <= part else bound
        for bound, left, part in zip(stages["bound"].to_pylist(), idle, most, strict=True)
    ]
    columns = {
        "dilation": pa.array(ratio, pa.float64(), mask=np.isnan(ratio)),
        "bound": pa.array(bounds, pa.string()).dictionary_encode(),
    }
    for name, values in columns.items():
        at = stages.schema.get_field_index(name)
        stages = stages.set_column(at, stages.schema.field(at), values.cast(stages.schema.field(at).type))
    return evolve(found, stages=stages)
