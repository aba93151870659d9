"""Builds the native recorder where there is a C compiler: hatchling's build hook, and a command of its own.

An install without a compiler, or without Python's or NVTX's headers, goes on without it; `dsocr-nvtx doctor` says so.
`python -m dsocr_nvtx.hooks.native.build` builds it beside its source, as for a checkout.
"""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAME = f"_recorder{sysconfig.get_config_var('EXT_SUFFIX')}"


def nvtx_headers() -> Path | None:
    """Return the folder of NVTX's headers in the package nvidia-nvtx; None where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        for header in Path(place).glob("**/include/nvtx3/nvToolsExtPayload.h"):
            return header.parent.parent
    return None


def build() -> str:
    """Compile the recorder beside its source; return why it could not be, or nothing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    compiler = shutil.which(compiler) or shutil.which("cc") or ""
    headers = nvtx_headers()
    if not compiler:
        return "no C compiler"
    if headers is None:
        return "no NVTX headers (package nvidia-nvtx)"
    # -lrt, -ldl: for C libraries before glibc 2.34, where clock_gettime and dlopen stand apart.
    command = [
        compiler, "-O2", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", f"-I{headers}",
        str(FOLDER / "recorder.c"), "-o", str(FOLDER / NAME), "-ldl", "-lrt",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the compiler, our source
    faults = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return "" if done.returncode == 0 else f"the compiler failed: {' '.join(faults[:1])}"


def get_build_hook() -> type:
    """Return hatchling's hook, which it looks for by this name."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class NativeRecorder(BuildHookInterface):  # type: ignore[misc]
        """Compiles the recorder into a wheel, or leaves it out."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
            """Build; a wheel that holds the recorder is for this Python and this platform."""
            reason = build()
            if reason:
                self.app.display_warning(f"the native recorder is left out: {reason}")
                return
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["artifacts"].append(f"src/dsocr_nvtx/hooks/native/{NAME}")

    return NativeRecorder


if __name__ == "__main__":
    sys.exit(build())
