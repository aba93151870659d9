"""What `doctor` asks of a machine: each question answered without raising, in a set time, without importing torch."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from glob import glob
from importlib import metadata, util
from pathlib import Path

from attrs import field, frozen


@frozen(kw_only=True)
class Nvml:
    """What NVML says: driver, newest CUDA it runs, (name, bytes of memory) of each GPU; else why it is silent."""

    driver: str = ""
    cuda: str = ""
    gpus: tuple[tuple[str, int], ...] = ()
    problem: str = ""


@frozen
class Machine:
    """The machine this process runs on; tests put another in its place."""

    environ: Mapping[str, str] = field(factory=lambda: dict(os.environ))
    is_root: bool = field(factory=lambda: os.geteuid() == 0)

    def which(self, program: str) -> str | None:
        """Return the path of a program on the PATH."""
        return shutil.which(program)

    def find(self, pattern: str) -> list[str]:
        """Return paths that match a pattern, the last in alphabetical order first."""
        return sorted(glob(pattern), reverse=True)

    def run(self, command: list[str], seconds: float) -> tuple[int, str]:
        """Return exit code and output; 124 where it took too long, 127 where it could not start."""
        try:
            done = subprocess.run(  # noqa: S603 - programs that were found on this machine
                command, capture_output=True, text=True, check=False, timeout=seconds, errors="replace",
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, f"no answer within {seconds:g} s"
        except OSError as error:
            return 127, str(error)
        return done.returncode, done.stdout + done.stderr

    def read(self, path: str) -> str | None:
        """Return the text of a file, None where it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def package_files(self, pattern: str) -> list[str]:
        """Return the files of this package that match a pattern below its folder."""
        return self.find(str(Path(__file__).parents[1] / pattern))

    def version(self, package: str) -> str | None:
        """Return the version of an installed distribution."""
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    def torch_cuda(self) -> str | None:
        """Return the CUDA version that torch was built for, read from its files; None for a build without CUDA."""
        found = self.package_folder("torch")
        text = self.read(f"{found}/version.py") if found else None
        match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text or "", re.MULTILINE)
        return match.group(1) if match else None

    def package_folder(self, package: str) -> str | None:
        """Return the folder of a package without importing it."""
        try:
            spec = util.find_spec(package)
        except (ImportError, ValueError):
            return None
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        return folders[0] if folders else None

    def can_write(self, folder: str) -> bool:
        """Say whether files can be made in a folder."""
        return os.access(folder, os.W_OK | os.X_OK)

    def nvml(self) -> Nvml:
        """Return what NVML says."""
        try:
            import pynvml as nvml
        except ImportError:
            return Nvml(problem="package nvidia-ml-py is not installed")
        try:
            nvml.nvmlInit()
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            gpus = tuple((str(nvml.nvmlDeviceGetName(h)), int(nvml.nvmlDeviceGetMemoryInfo(h).total)) for h in handles)
            newest = int(nvml.nvmlSystemGetCudaDriverVersion())
            driver = str(nvml.nvmlSystemGetDriverVersion())
            nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            return Nvml(problem=str(error))
        return Nvml(driver=driver, cuda=f"{newest // 1000}.{newest % 1000 // 10}", gpus=gpus)
