"""`dsocr-nvtx ceilings`: the roofs of the present GPU as one table, with the gauges read while each was reached."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch

from dsocr_nvtx import __version__
from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.measure.gauge import Reading, open_gauge
from dsocr_nvtx.measure.launches import launch_series
from dsocr_nvtx.measure.products import product_subjects
from dsocr_nvtx.measure.sampling import Sampler
from dsocr_nvtx.measure.subjects import Subject
from dsocr_nvtx.measure.survey import Plan, Survey, ceilings_columns, launch_rows, survey
from dsocr_nvtx.measure.timer import EventTimer
from dsocr_nvtx.measure.traffic import Chip, l2_subjects, memory_subjects, triton_kernels, vector_subjects
from dsocr_nvtx.schema.gauges import CEILINGS
from dsocr_nvtx.schema.tables import conform

Say = Callable[[str], None]


def measure_ceilings(device: str, *, quick: bool, progress: Say, say: Say) -> pa.Table:
    """Return a CEILINGS table of one GPU. ``say`` gets what the user must know: gauges or kernels that are missing.

    Refused where there is no GPU. Nothing of the GPU's settings is changed.
    """
    index = _index(device)
    with torch.cuda.device(index), torch.inference_mode(), ExitStack() as stack:
        properties = torch.cuda.get_device_properties(index)
        about = _about(properties)
        readings: list[Reading] = []
        try:
            gauge = open_gauge(about["uuid"])
            stack.callback(gauge.close)
            about |= {"driver": gauge.driver(), "max_sm_clock_mhz": str(gauge.max_sm_clock_mhz or "")}
            readings = stack.enter_context(Sampler(gauge)).readings
        except Unavailable as missing:
            say(f"clocks and power are not read: {missing}")
        found = survey(_subjects(properties, quick=quick, say=say), EventTimer(), Plan.of(quick=quick), progress)
        found = _with_launches(found, quick=quick, progress=progress)
    for name, reason in found.missing.items():
        say(f"not measured: {name}: {reason}")
    about["not_measured"] = "; ".join(f"{name}: {reason}" for name, reason in found.missing.items())
    return conform(ceilings_columns(found.rows, readings), CEILINGS, about | {"quick": str(quick).lower()})


def _index(device: str) -> int:
    if not torch.cuda.is_available():
        raise Unavailable(
            "ceilings are measured on a GPU, and torch finds no CUDA device; `dsocr-nvtx doctor` says why"
        )
    try:
        index = torch.device(device).index or 0
    except RuntimeError as error:
        raise Unavailable(f"--device is cuda:N, not {device!r}") from error
    if index >= torch.cuda.device_count():
        raise Unavailable(f"{device}: {torch.cuda.device_count()} CUDA devices here; choose another --device")
    return index


def _about(properties: Any) -> dict[str, str]:
    return {
        "device": properties.name,
        "uuid": str(getattr(properties, "uuid", "")),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "sm_count": str(properties.multi_processor_count),
        "l2_bytes": str(getattr(properties, "L2_cache_size", 0)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dsocr_nvtx": __version__,
    }


def _subjects(properties: Any, *, quick: bool, say: Say) -> list[Subject]:
    kernels = triton_kernels()
    if kernels is None:
        say(
            "Triton is not installed: the L2 and the vector units stay unmeasured, memory is timed with torch's kernels"
        )
    chip = Chip(
        sm_count=properties.multi_processor_count,
        l2_bytes=getattr(properties, "L2_cache_size", 0) or 32 * 2**20,
        free_bytes=torch.cuda.mem_get_info()[0],
    )
    return [
        *product_subjects(chip.sm_count, (properties.major, properties.minor), quick=quick),
        *memory_subjects(chip, kernels, quick=quick),
        *l2_subjects(chip, kernels, quick=quick),
        *vector_subjects(chip, kernels, quick=quick),
    ]


def _with_launches(found: Survey, *, quick: bool, progress: Say) -> Survey:
    progress("launches")
    try:
        rows = launch_rows(launch_series(10 if quick else 30))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Survey(rows=found.rows, missing={**found.missing, "launches": reason})
    missing = dict(found.missing)
    if not any(row.subject.quantity == "shortest_kernel" for row in rows):
        missing["shortest_kernel"] = "torch's profiler could not read kernel times; another tool may hold CUPTI"
    return Survey(rows=(*found.rows, *rows), missing=missing)
