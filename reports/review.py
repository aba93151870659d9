"""The review of DeepSeek-OCR on one GPU: captures every workload, then builds the pages and tables that reports/ shows.

    python3 reports/review.py capture DIR [NAME ...]    # needs an NVIDIA GPU and nsys: about a minute a workload
    python3 reports/review.py build DIR -o reports/h200 # needs neither

``capture`` writes, per workload, ``NAME.sqlite`` (the default export) and the run directory ``NAME.run``, and once
``ceilings.arrow``; what is there already is kept. ``build`` joins each of them and writes ``NAME.html``.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PAGES = 16
WATCHED = ("--calibrate", "--power")
DECODES = ("eager", "static", "graph")
MODES = ("tiny", "small", "base", "large")

WORKLOADS: dict[str, tuple[str, ...]] = {
    **{f"{decode}-1": ("--decode", decode, *WATCHED) for decode in DECODES},
    **{f"{decode}-{PAGES}": ("--decode", decode, *WATCHED, "PAGES") for decode in DECODES},
    **{f"prefill-{mode}": ("--mode", mode, "--max-new-tokens", "4") for mode in MODES},
    "static-512": ("--decode", "static", "--max-new-tokens", "512"),
    # The same code again, for what two runs of it differ by.
    **{f"{decode}-{pages}{again}": ("--decode", decode, *(("PAGES",) if pages > 1 else ()))
       for decode, pages in (("eager", 1), ("static", 1), ("graph", 1), ("graph", PAGES)) for again in "bc"},
}  # fmt: skip
"""Arguments of `dsocr-nvtx run`; what they do not say: gundam, 2x3 tiles, 64 tokens, level op. PAGES: 16 different."""

COMMON = ("--tiles", "2x3", "--max-new-tokens", "64", "--ignore-eos")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    capturing = actions.add_parser("capture")
    capturing.add_argument("folder", type=Path)
    capturing.add_argument("names", nargs="*", metavar="NAME", help="all where none is named")
    asked = parser.parse_args()
    capture(asked.folder, asked.names or list(WORKLOADS))


def capture(folder: Path, names: Sequence[str]) -> None:
    """Record the named workloads, one after another, each in a process of its own under nsys."""
    folder.mkdir(parents=True, exist_ok=True)
    ceilings = folder / "ceilings.arrow"
    if not ceilings.exists():
        command("-m", "dsocr_nvtx.cli", "ceilings", "-o", str(ceilings))
    for name in names:
        if not (folder / f"{name}.sqlite").exists():
            started = time.perf_counter()
            record(folder, name)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


def record(folder: Path, name: str) -> None:
    """Profile one workload with the flags of nsys_scripts/profile.sh, only the recorded part, and export it."""
    profile = Path(__file__).parents[1] / "nsys_scripts" / "profile.sh"
    report = folder / name
    subprocess.run(  # noqa: S603 - our script, our arguments
        ["bash", str(profile), "-o", str(report), "--range", *arguments(folder, name), "--out", f"{report}.run"],  # noqa: S607
        check=True,
    )
    subprocess.run(  # noqa: S603 - nsys of the PATH
        ["nsys", "export", "-t", "sqlite", "-o", f"{report}.sqlite", f"{report}.nsys-rep"],  # noqa: S607
        check=True,
    )


def arguments(folder: Path, name: str) -> list[str]:
    """Return a workload's arguments; later ones win where an option stands twice."""
    words = [*COMMON, *WORKLOADS[name]]
    if "--mode" in words:
        words = words[2:]
    if "PAGES" in words:
        words.remove("PAGES")
        words += different_pages(folder / "pages", PAGES)
    return words


def different_pages(folder: Path, count: int) -> list[str]:
    """Draw pages that differ, where they are not there yet, and return their files."""
    from dsocr_nvtx.run.pages import drawn_page

    folder.mkdir(exist_ok=True)
    paths = [folder / f"page{seed}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            drawn_page(seed).image.save(path)
    return list(map(str, paths))


def command(*words: str) -> None:
    """Run a command of this package with this interpreter."""
    subprocess.run([sys.executable, *words], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
