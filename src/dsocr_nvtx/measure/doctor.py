"""What can be captured on this machine and what is missing, each line ok or with the command that mends it."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

from attrs import frozen

from dsocr_nvtx.measure.machine import Machine, Nvml
from dsocr_nvtx.schema.hardware import DATASHEET

_NSYS_PLACES: Final = (
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/opt/nvidia/nsight-compute/*/host/target-linux-*/nsys",
)
_CUPTI_PLACES: Final = (
    "/usr/local/cuda*/extras/CUPTI/lib64/libcupti.so*",
    "/usr/local/cuda*/lib64/libcupti.so*",
    "/usr/lib/*-linux-gnu/libcupti.so*",
)
_CUPTI_WHEELS: Final = ("cuda_cupti/lib/libcupti.so*", "cu1*/lib/libcupti.so*")
_PARAMETERS: Final = "/proc/driver/nvidia/params"
_UNRESTRICT: Final = (
    "echo 'options nvidia NVreg_RestrictProfilingToAdminUsers=0' | sudo tee /etc/modprobe.d/nvidia-profiling.conf, "
    "then reboot; or profile as root"
)
_LIBRARIES: Final = {"libdw.so.1": "libdw1", "libelf.so.1": "libelf1", "libglib-2.0.so.0": "libglib2.0-0"}
_ANALYSIS: Final = ("attrs", "numpy", "pyarrow", "rich", "typer")
_CAPTURE: Final = ("nvtx", "pillow", "pypdfium2", "nvidia-ml-py")
# The first release with the network, and the first that was not tried, as pyproject.toml has them.
TRANSFORMERS: Final = ((5, 20), (5, 25))


class State(StrEnum):
    """How a line stands. ``optional``: something is lacking that only some commands want."""

    OK = "ok"
    MISSING = "missing"
    OPTIONAL = "optional"


@frozen
class Check:
    """One line: what was looked at, how it stands, what was found, and the command that mends it."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(machine: Machine) -> list[Check]:
    """Return every check in the order that a person would go through them. Nothing here raises or waits long."""
    nvml = machine.nvml()
    return [
        *_driver(machine, nvml),
        *_nsys(machine),
        *_cupti(machine),
        _counters(machine),
        *_packages(machine),
        _torch(machine, nvml),
        _transformers(machine),
        _recorder(machine),
        _folder(machine),
    ]


def _driver(machine: Machine, nvml: Nvml) -> Iterator[Check]:
    if nvml.gpus:
        yield Check("driver", State.OK, nvml.driver)
        yield Check("CUDA", State.OK, f"up to {nvml.cuda}")
        for index, (name, size) in enumerate(nvml.gpus):
            roofs = "datasheet roofs known" if name in DATASHEET else "no datasheet roofs"
            remedy = "" if name in DATASHEET else "dsocr-nvtx ceilings -o ceilings.arrow, then join --ceilings"
            state = State.OK if name in DATASHEET else State.OPTIONAL
            yield Check(f"GPU {index}", state, f"{name}, {size / 2**30:.0f} GiB, {roofs}", remedy)
        yield Check("NVML", State.OK, "power, clocks and energy can be read")
        return
    loaded = (machine.read("/proc/driver/nvidia/version") or "").split("\n", 1)[0]
    remedy = "install NVIDIA's driver; in a container, start it with --gpus all"
    yield Check("driver", State.OK if loaded else State.MISSING, loaded or "not loaded", "" if loaded else remedy)
    yield Check("GPU", State.MISSING, "none found; join, analytic and demo work without one", remedy)
    mend = "pip install nvidia-ml-py" if "not installed" in nvml.problem else remedy
    yield Check("NVML", State.MISSING, nvml.problem or "no GPU", mend)


def _nsys(machine: Machine) -> Iterator[Check]:
    path = machine.which("nsys")
    if path is None:
        elsewhere = [found for place in _NSYS_PLACES for found in machine.find(place)]
        if elsewhere:
            remedy = f"export PATH={Path(elsewhere[0]).parent}:$PATH"
            yield Check("nsys", State.MISSING, f"not on the PATH, but at {elsewhere[0]}", remedy)
        else:
            remedy = "install it: apt-get install -y nsight-systems-cli, from NVIDIA's repository for your system"
            yield Check("nsys", State.MISSING, "not found; profiling and joining a .nsys-rep need it", remedy)
        return
    code, text = machine.run([path, "--version"], 1.5)
    version = re.search(r"\d{4}\.\d[\w.\-]*", text)
    if code != 0 or version is None:
        yield Check("nsys", State.MISSING, f"{path} does not run: {_last(text)}", _mend(text))
        return
    yield Check("nsys", State.OK, f"{version.group()}, {path}")
    yield _importer(machine, path)


def _importer(machine: Machine, nsys: str) -> Check:
    """Say whether reports can be finished and exported: the importer is another program, with libraries of its own."""
    root = Path(nsys).resolve().parent.parent
    found = machine.find(f"{root}/host-linux-*/QdstrmImporter") or machine.find(f"{root}/*/host-linux-*/QdstrmImporter")
    command = [found[0], "--help"] if found else [nsys, "export", "--help"]
    code, text = machine.run(command, 2.0)
    if "error while loading shared libraries" in text or code in (124, 127):
        return Check("nsys importer", State.MISSING, f"{command[0]}: {_last(text)}", _mend(text))
    return Check("nsys importer", State.OK, "reports can be written and exported")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


def _mend(text: str) -> str:
    library = re.search(r"loading shared libraries: (\S+?):", text)
    if library is None:
        return "install Nsight Systems again"
    package = _LIBRARIES.get(library.group(1))
    return f"apt-get install -y {package}" if package else f"install the system package that has {library.group(1)}"


def _cupti(machine: Machine) -> Iterator[Check]:
    wheels = machine.package_folder("nvidia")
    places = [*(f"{wheels}/{place}" for place in _CUPTI_WHEELS if wheels), *_CUPTI_PLACES]
    libraries = [found for place in places for found in machine.find(place)]
    package = machine.version("cupti-python")
    if libraries:
        yield Check("CUPTI", State.OK, libraries[0])
    else:
        yield Check("CUPTI", State.OPTIONAL, "libcupti not found", "pip install 'dsocr-nvtx[cupti]'")
    if package is None:
        yield Check(
            "cupti-python",
            State.OPTIONAL,
            "not installed; run --timing cupti needs it",
            "pip install 'dsocr-nvtx[cupti]'",
        )
    else:
        yield Check("cupti-python", State.OK, package)
    yield _holder(machine)


def _holder(machine: Machine) -> Check:
    names = ("NSYS_PROFILING_SESSION_ID", "NVTX_INJECTION64_PATH", "CUDA_INJECTION64_PATH")
    held = [name for name in names if machine.environ.get(name) and "libcupti" not in machine.environ[name]]
    if held:
        remedy = f"unset {' '.join(held)}, or run outside the other tool"
        return Check("CUPTI free", State.OPTIONAL, f"another tool is attached ({', '.join(held)})", remedy)
    return Check("CUPTI free", State.OK, "no other tool is attached to this process")


def _counters(machine: Machine) -> Check:
    text = machine.read(_PARAMETERS)
    if text is None:
        return Check(
            "counters", State.OPTIONAL, f"no {_PARAMETERS}, so it cannot be told", "load NVIDIA's driver first"
        )
    restricted = re.search(r"RmProfilingAdminOnly:\s*1", text) is not None
    if restricted and not machine.is_root:
        return Check("counters", State.OPTIONAL, "hardware counters are kept for administrators", _UNRESTRICT)
    return Check("counters", State.OK, "hardware counters may be read" + (", as root" if restricted else ""))


def _packages(machine: Machine) -> Iterator[Check]:
    for extra, names in (("", _ANALYSIS), ("[run]", _CAPTURE)):
        for name in names:
            version = machine.version(name)
            state = State.OK if version else State.MISSING
            yield Check(name, state, version or "not installed", "" if version else f"pip install 'dsocr-nvtx{extra}'")
    triton = machine.version("triton")
    text = "not installed; ceilings leaves the L2 and the vector units unmeasured"
    yield Check(
        "triton", State.OK if triton else State.OPTIONAL, triton or text, "" if triton else "pip install triton"
    )


def _recorder(machine: Machine) -> Check:
    """Say whether the hooks' native recorder was built: `dsocr_nvtx.hooks.native`."""
    if machine.package_files("hooks/native/_recorder*.so"):
        return Check("recorder", State.OK, "native")
    found = "in Python; the native one was not built, which costs less"
    remedy = "install a C compiler, then: pip install --force-reinstall --no-deps dsocr-nvtx"
    return Check("recorder", State.OPTIONAL, found, remedy)


def _torch(machine: Machine, nvml: Nvml) -> Check:
    version = machine.version("torch")
    if version is None:
        return Check("torch", State.MISSING, "not installed; run and ceilings need it", "pip install 'dsocr-nvtx[run]'")
    built = machine.torch_cuda()
    if built is not None:
        return Check("torch", State.OK, f"{version}, for CUDA {built}")
    state = State.MISSING if nvml.gpus else State.OPTIONAL
    remedy = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
    return Check("torch", state, f"{version}, a build without CUDA: run works with --device cpu --config tiny", remedy)


def _transformers(machine: Machine) -> Check:
    version = machine.version("transformers")
    first, untried = (".".join(map(str, release)) for release in TRANSFORMERS)
    remedy = f"pip install 'transformers>={first},<{untried}'"
    if version is None:
        return Check("transformers", State.MISSING, "not installed; run needs it", remedy)
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < TRANSFORMERS[0]:
        return Check("transformers", State.MISSING, f"{version} has no DeepSeek-OCR network", remedy)
    if found >= TRANSFORMERS[1]:
        return Check("transformers", State.OPTIONAL, f"{version} is newer than any that was tried", remedy)
    return Check("transformers", State.OK, version)


def _folder(machine: Machine) -> Check:
    folder = str(Path.cwd())
    if machine.can_write(folder):
        return Check("folder", State.OK, f"{folder} can be written")
    return Check(
        "folder", State.MISSING, f"{folder} cannot be written", "cd to a folder of yours, or pass -o elsewhere"
    )


def abilities(checks: list[Check]) -> dict[str, bool]:
    """Return what the checks allow: which commands and sources of time work here."""
    fine = {check.name for check in checks if check.state is State.OK}
    has_gpu = any(check.name == "GPU 0" for check in checks)
    torch_ok = has_gpu and "torch" in fine
    model = torch_ok and any(check.name == "transformers" and check.state is not State.MISSING for check in checks)
    return {
        "join": fine >= set(_ANALYSIS),
        "run": model and "nvtx" in fine,
        "nsys": fine >= {"nsys", "nsys importer"},
        "cupti": model and fine >= {"CUPTI", "cupti-python", "CUPTI free"},
        "events": model,
        "power": "NVML" in fine,
        "ceilings": torch_ok,
        "counters": "counters" in fine,
    }
