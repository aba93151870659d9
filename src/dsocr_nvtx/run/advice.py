"""What to type after a run: join the report if a profiler was watching, else profile the same run."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# Sampling and context switches of a short run make a report of gigabytes that nothing here reads.
NSYS_FLAGS: Final = ("-t", "cuda,nvtx", "-s", "none", "--cpuctxsw=none", "--cuda-graph-trace=node")
RANGE_FLAGS: Final = ("--capture-range=cudaProfilerApi", "--capture-range-end=stop")


def under_nsys(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether Nsight Systems launched this process: it leaves its session, and its library for NVTX, behind."""
    injected = Path(environment.get("NVTX_INJECTION64_PATH", "")).name.lower()
    return "NSYS_PROFILING_SESSION_ID" in environment or bool(injected and "cupti" not in injected)


def next_command(directory: Path, command: tuple[str, ...], *, capture_range: bool, profiled: bool) -> str:
    """Return the next command to type."""
    if profiled:
        return f"dsocr-nvtx join <report>.nsys-rep --run {shlex.quote(str(directory))}"
    flags = NSYS_FLAGS + (RANGE_FLAGS if capture_range else ())
    return shlex.join(["nsys", "profile", *flags, "-o", "report", *_as_typed(command)])


def _as_typed(command: tuple[str, ...]) -> list[str]:
    """Return the command line as a person types it: ``python -m`` leaves the module's file in its place."""
    program, *rest = command or ("__main__.py",)
    if Path(program).name == "__main__.py":
        return ["python", "-m", "dsocr_nvtx.run", *rest]
    return [Path(program).name, *rest]
