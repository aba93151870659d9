"""Runs the join beside its peers on one generated report in one run, and writes the table that ``reports/`` keeps.

Every measurement is a process of its own, so that its time is whole and its peak memory its own. Beside us: a bare read
of the same columns through Python's sqlite3 (fetchmany, nothing kept), NVIDIA's ``nsys stats -r nvtx_gpu_proj_trace``
where nsys is installed, and nsys-ai's attribution where that package is. Run as
``python -m tests.bench.compare -o reports/join-speed.md`` (``--times 10`` adds ten times the rows, ``--report FILE``
takes a real one).
"""

import argparse
import datetime
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from attrs import evolve, frozen

from tests.bench.generate import Size
from tests.bench.tasks import TASKS


@frozen
class Taken:
    """What one process took: seconds inside (imports left out), peak memory of the process, what it said."""

    seconds: float
    megabytes: int
    note: str = ""


def run_task(name: str, report: Path) -> Taken:
    """Run one of `tests.bench.tasks` in a process of its own."""
    words = [sys.executable, "-m", "tests.bench.tasks", name, str(report)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return Taken(float("nan"), 0, (done.stderr.strip().splitlines() or ["failed"])[-1][:90])
    seconds, kilobytes, *note = done.stdout.strip().splitlines()[-1].split(" ", 2)
    return Taken(float(seconds), int(kilobytes) // 1024, " ".join(note))


def rounds(names: Sequence[str], report: Path, count: int) -> dict[str, list[Taken]]:
    """Return what several processes of each task took, in rounds: other work on the machine then meets all alike."""
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for _ in range(count):
        for name in names:
            taken[name].append(run_task(name, report))
    return taken


def machine() -> str:
    """Return what the numbers were measured on, in words."""
    cores = len(os.sched_getaffinity(0))
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    return f"{cpu}, {cores} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def present(name: str) -> str:
    """Return why a task cannot run here, or nothing."""
    if name == "nsys stats" and shutil.which("nsys") is None:
        return "nsys is not installed here"
    if name == "nsys-ai" and importlib.util.find_spec("nsys_ai") is None:
        return "nsys-ai is not installed here"
    return ""


def table(report: Path, count: int, show: Callable[[str], None]) -> list[str]:
    """Return the rows of one report's table."""
    missing = {name: present(name) for name in TASKS}
    taken = rounds([name for name in TASKS if not missing[name]], report, count)
    rows = ["| what | seconds | best | of the bare read | peak MB | |", "|---|---:|---:|---:|---:|---|"]
    for name in TASKS:
        rows.append(_row(name, taken[name], taken["bare sqlite3 read"]) if name in taken else _absent(name, missing))
        show(rows[-1])
    return rows


def _row(name: str, taken: list[Taken], floor: list[Taken]) -> str:
    seconds = [one.seconds for one in taken]
    ratio = median(one / bare.seconds for one, bare in zip(seconds, floor, strict=True))
    most = max(one.megabytes for one in taken)
    return f"| {name} | {median(seconds):.2f} | {min(seconds):.2f} | {ratio:.2f} | {most} | {taken[0].note} |"


def _absent(name: str, why: dict[str, str]) -> str:
    return f"| {name} | - | - | - | - | {why[name]} |"


def _generated(path: Path, size: Size) -> Path:
    """Generate in a process of its own: the peak memory of this one would count for every process it starts."""
    numbers = {"kernels": size.kernels, "calls": size.calls, "ranges": size.ranges}
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    subprocess.run([sys.executable, "-m", "tests.bench.generate", str(path), *words], check=True)
    return path


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernels", type=int, default=Size().kernels)
    parser.add_argument("--ranges", type=int, default=Size().ranges)
    parser.add_argument("--times", type=int, default=1, help="also measure a report with so many times the rows")
    parser.add_argument("--report", type=Path, help="measure this SQLite export, and generate none")
    given = parser.parse_args()
    size = Size(kernels=given.kernels, calls=given.kernels, ranges=given.ranges)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    words = f"python -m tests.bench.compare {' '.join(sys.argv[1:])}"
    lines = ["# The join beside its peers", "", f"{now}. {machine()}. Command: `{words}`.", ""]
    lines += [
        f"Medians of {given.rounds} rounds of one process each (of ten times the rows, one); the ratio is the median "
        "of the ratios within a round. Seconds leave out imports; memory is all."
    ]
    if given.report is not None:
        lines += ["", *table(given.report, given.rounds, print), ""]
        given.out.write_text("\n".join(lines), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        for factor in dict.fromkeys((1, given.times)):
            big = evolve(size, kernels=size.kernels * factor, calls=size.calls * factor, ranges=size.ranges * factor)
            report = _generated(Path(folder) / "report.sqlite", big)
            what = f"{big.kernels:,} kernels, {big.calls:,} calls, {big.ranges:,} ranges"
            lines += ["", f"## {what} ({report.stat().st_size >> 20} MB)", ""]
            lines += [*table(report, given.rounds if factor == 1 else 1, print), ""]
    given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
