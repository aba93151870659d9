"""`doctor` on machines that lack one thing each: what is missing has a remedy, and nothing raises."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest
from attrs import evolve, field, frozen

from dsocr_nvtx.cli.doctor import show_checks
from dsocr_nvtx.measure.doctor import Check, State, abilities, examine
from dsocr_nvtx.measure.machine import Machine, Nvml

H200 = Nvml(driver="580.159.04", cuda="13.0", gpus=(("NVIDIA H200", 150_754_820_096),))
PACKAGES = {
    "attrs": "25.1", "numpy": "2.4", "pyarrow": "26.0", "rich": "15.0", "typer": "0.29", "nvtx": "0.2.17",
    "pillow": "13.0", "pypdfium2": "5.15", "nvidia-ml-py": "13.615", "triton": "3.6", "torch": "2.11.0",
    "transformers": "5.23.0", "cupti-python": "13.4.0",
}  # fmt: skip
NSYS = "/opt/nvidia/nsight-systems/2025.3.1/bin/nsys"
IMPORTER = "/opt/nvidia/nsight-systems/2025.3.1/host-linux-x64/QdstrmImporter"


@frozen
class FakeMachine(Machine):
    """A machine with everything; tests take things away."""

    environ: Mapping[str, str] = field(factory=dict)
    is_root: bool = False
    packages: Mapping[str, str] = field(factory=lambda: dict(PACKAGES))
    answers: Mapping[str, tuple[int, str]] = field(
        factory=lambda: {
            NSYS: (0, "NVIDIA Nsight Systems version 2025.3.1.90-253135822126v0\n"),
            IMPORTER: (0, "usage"),
        }
    )
    files: Mapping[str, str] = field(factory=lambda: {"/proc/driver/nvidia/params": "RmProfilingAdminOnly: 0\n"})
    paths: tuple[str, ...] = (IMPORTER, "/usr/local/cuda/lib64/libcupti.so.13")
    on_path: str | None = NSYS
    seen: Nvml = H200
    built_for: str | None = "13.0"
    writable: bool = True
    recorder: bool = True

    def which(self, program: str) -> str | None:
        return self.on_path

    def find(self, pattern: str) -> list[str]:
        last = pattern.rsplit("/", 1)[-1].rstrip("*")
        return [path for path in self.paths if last in path]

    def run(self, command: list[str], seconds: float) -> tuple[int, str]:
        return self.answers.get(command[0], (127, "no such file"))

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def version(self, package: str) -> str | None:
        return self.packages.get(package)

    def torch_cuda(self) -> str | None:
        return self.built_for

    def package_files(self, pattern: str) -> list[str]:
        return [pattern] if self.recorder else []

    def package_folder(self, package: str) -> str | None:
        return None

    def can_write(self, folder: str) -> bool:
        return self.writable

    def nvml(self) -> Nvml:
        return self.seen


def line(machine: Machine, name: str) -> Check:
    """Return the one check of this name."""
    (found,) = [check for check in examine(machine) if check.name == name]
    return found


def without(*names: str) -> FakeMachine:
    """Return the machine without some packages."""
    return FakeMachine(packages={name: v for name, v in PACKAGES.items() if name not in names})


def test_a_machine_with_everything_can_do_everything() -> None:
    checks = examine(FakeMachine())
    assert {check.state for check in checks} == {State.OK}
    assert all(abilities(checks).values())


@pytest.mark.parametrize(
    ("machine", "name", "state", "remedy"),
    [
        (FakeMachine(seen=Nvml(problem="no driver")), "GPU", State.MISSING, "--gpus all"),
        (FakeMachine(seen=Nvml(problem="nvidia-ml-py is not installed")), "NVML", State.MISSING, "pip install"),
        (FakeMachine(seen=evolve(H200, gpus=(("NVIDIA Z9", 2**33),))), "GPU 0", State.OPTIONAL, "dsocr-nvtx ceilings"),
        (FakeMachine(on_path=None, paths=()), "nsys", State.MISSING, "apt-get install"),
        (FakeMachine(on_path=None, paths=(NSYS,)), "nsys", State.MISSING, "export PATH=/opt/nvidia/nsight-sys"),
        (FakeMachine(answers={NSYS: (124, "no answer")}), "nsys", State.MISSING, "again"),
        (FakeMachine(paths=(IMPORTER,)), "CUPTI", State.OPTIONAL, "[cupti]"),
        (without("cupti-python"), "cupti-python", State.OPTIONAL, "[cupti]"),
        (FakeMachine(environ={"NSYS_PROFILING_SESSION_ID": "7"}), "CUPTI free", State.OPTIONAL, "unset NSYS"),
        (FakeMachine(files={"/proc/driver/nvidia/params": "RmProfilingAdminOnly: 1\n"}), "counters", State.OPTIONAL,
         "modprobe"),
        (FakeMachine(files={}), "counters", State.OPTIONAL, "driver"),
        (without("pyarrow"), "pyarrow", State.MISSING, "pip install 'dsocr-nvtx'"),
        (without("nvtx"), "nvtx", State.MISSING, "pip install 'dsocr-nvtx[run]'"),
        (without("torch"), "torch", State.MISSING, "pip install 'dsocr-nvtx[run]'"),
        (FakeMachine(built_for=None), "torch", State.MISSING, "download.pytorch.org"),
        (FakeMachine(packages=PACKAGES | {"transformers": "5.17.0"}), "transformers", State.MISSING, ">=5.20"),
        (FakeMachine(packages=PACKAGES | {"transformers": "5.30.1"}), "transformers", State.OPTIONAL, "<5."),
        (without("triton"), "triton", State.OPTIONAL, "pip install triton"),
        (FakeMachine(writable=False), "folder", State.MISSING, "cd "),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_the_command_that_mends_it(
    machine: Machine, name: str, state: State, remedy: str
) -> None:
    found = line(machine, name)
    assert found.state is state
    assert remedy in found.remedy


def test_an_importer_that_lacks_a_library_names_its_package() -> None:
    text = f"{IMPORTER}: error while loading shared libraries: libdw.so.1: cannot open shared object file"
    machine = FakeMachine(answers={NSYS: (0, "version 2025.3.1"), IMPORTER: (127, text)})
    assert line(machine, "nsys importer").remedy == "apt-get install -y libdw1"
    assert abilities(examine(machine))["nsys"] is False


def test_root_may_read_restricted_counters() -> None:
    machine = FakeMachine(is_root=True, files={"/proc/driver/nvidia/params": "RmProfilingAdminOnly: 1\n"})
    assert line(machine, "counters").state is State.OK


def test_cupti_of_our_own_holds_nothing() -> None:
    machine = FakeMachine(environ={"NVTX_INJECTION64_PATH": "/usr/lib/libcupti.so.13"})
    assert line(machine, "CUPTI free").state is State.OK


def test_every_missing_line_has_a_remedy_on_a_machine_with_nothing() -> None:
    bare = FakeMachine(packages={}, answers={}, files={}, paths=(), on_path=None, seen=Nvml(problem="none"),
                       built_for=None)  # fmt: skip
    checks = examine(bare)
    assert all(check.remedy and "\n" not in check.remedy + check.found for check in checks if check.state != State.OK)
    assert not any(abilities(checks).values())


def test_the_page_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    show_checks(Console(), examine(without("torch")))
    shown = capsys.readouterr().out
    assert "-> pip install 'dsocr-nvtx[run]'" in shown
    assert "cannot: run, cupti, events, ceilings" in shown


BLOCKED = """
import sys
sys.argv = ["dsocr-nvtx", "doctor", "--json"]
from dsocr_nvtx.cli import main
main()
"""


def test_doctor_answers_within_five_seconds_exit_zero_and_without_torch() -> None:
    started = time.monotonic()
    code = BLOCKED + "\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert time.monotonic() - started < 5
    assert done.returncode == 0, done.stderr
    assert {"checks", "can"} == set(json.loads(done.stdout))
