"""The same run without any tool, beside the profiled one: how much longer each stage takes because it is watched.

A tool that launched this process cannot be asked to look away, so the unprofiled run is a process of its own, started
without the tool's environment, before the profiled run takes the GPU's memory.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from attrs import asdict, evolve

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.run.workload import RunOptions
from dsocr_nvtx.schema.files import read_table

_INJECTED = ("NSYS_", "QUADD_", "NVTX_INJECTION", "CUDA_INJECTION", "LD_PRELOAD")
_CHILD = "from dsocr_nvtx.run.calibrate import run_unprofiled; run_unprofiled()"


def unprofiled_steps(options: RunOptions) -> dict[str, int]:
    """Make the run that is asked for without any tool and return the median step of each stage in nanoseconds."""
    with tempfile.TemporaryDirectory(prefix="dsocr-") as folder:
        target = Path(folder) / "run"
        plain = evolve(options, out=target, level="stage", events=False, timing="none", observe_experts=False,
                       hooks=True, capture_range=False, calibrate=False, power=False)  # fmt: skip
        words = [sys.executable, "-c", _CHILD]
        text = json.dumps(asdict(plain), default=str)
        done = subprocess.run(  # noqa: S603 - this interpreter, this package
            words, input=text, env=without_tools(os.environ), capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Unavailable(f"--calibrate: the unprofiled run failed: {said}")
        return median_steps(read_table(target / "ranges.arrow"))


def run_unprofiled() -> None:
    """Make the run whose options come on standard input: what the process of its own does."""
    from dsocr_nvtx.run.capture import capture

    known = json.load(sys.stdin)
    known |= {name: Path(known[name]) for name in ("out", "checkpoint") if known[name] is not None}
    known |= {name: tuple(known[name]) for name in ("pages", "command")}
    known["tiles"] = tuple(known["tiles"]) if known["tiles"] is not None else None
    capture(RunOptions(**known))


def without_tools(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no profiler is loaded into a new process."""
    return {name: value for name, value in environment.items() if not name.startswith(_INJECTED)}


def median_steps(ranges: pa.Table) -> dict[str, int]:
    """Return the median step of each stage of a RANGES table: by CUDA events, else by the host's clock."""
    found: dict[str, list[int]] = defaultdict(list)
    names = ("path", "stage", "device_ns", "host_start_ns", "host_end_ns")
    for path, stage, device_ns, start, end in zip(*(ranges[name].to_pylist() for name in names), strict=True):
        if path == stage:
            found[stage].append(end - start if device_ns is None else device_ns)
    return {stage: round(statistics.median(steps)) for stage, steps in found.items()}


def dilation_of(profiled: Mapping[str, int], unprofiled: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return, per stage, both median steps and their ratio."""
    return {
        stage: {"profiled_ns": spent, "unprofiled_ns": unprofiled[stage], "ratio": spent / max(unprofiled[stage], 1)}
        for stage, spent in profiled.items()
        if stage in unprofiled
    }
