"""The review of DeepSeek-OCR on one GPU: captures every workload, then builds the pages and tables that reports/ shows.

    python3 reports/review.py capture DIR [NAME ...]    # needs an NVIDIA GPU and nsys: about a minute a workload
    python3 reports/review.py build DIR -o reports/h200 # needs neither

``capture`` writes, per workload, ``NAME.sqlite`` (the default export) and the run directory ``NAME.run``, and once
``ceilings.arrow``; what is there already is kept. ``build`` joins each of them and writes ``NAME.html``.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IDLE_CAUSES = ("host", "launch", "sync", "memory", "queued")
PAGES = 16
COUNTS = (1, PAGES)
DATE = "2026-11-23"
WATCHED = ("--calibrate", "--power")
DECODES = ("eager", "static", "compiled", "graph")
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

COLUMNS = {
    "wall": "wall",
    "middle step": "middle",
    "slower": "dilation",
    "roofline": "roofline",
    "inefficiency": "inefficiency",
    "tax": "tax",
    "idle": "idle",
    "no stalls": "no_stall",
    "free launches": "graph",
    "tax fused": "fused",
}

COMMON = ("--tiles", "2x3", "--max-new-tokens", "64", "--ignore-eos")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    capturing = actions.add_parser("capture")
    capturing.add_argument("folder", type=Path)
    capturing.add_argument("names", nargs="*", metavar="NAME", help="all where none is named")
    building = actions.add_parser("build")
    building.add_argument("folder", type=Path)
    building.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.action == "capture":
        capture(asked.folder, asked.names or list(WORKLOADS))
    else:
        build(asked.folder, asked.out)


def capture(folder: Path, names: Sequence[str]) -> None:
    """Record the named workloads, one after another, each in a process of its own under nsys."""
    folder.mkdir(parents=True, exist_ok=True)
    ceilings = folder / "ceilings.arrow"
    if not ceilings.exists():
        command("-m", "dsocr_nvtx", "ceilings", "-o", str(ceilings))
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
        words += ["--batch", str(PAGES), *different_pages(folder / "pages", PAGES)]
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


def build(folder: Path, out: Path) -> None:
    """Join every workload that was captured; write a page each, and one table of all of them."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in [name for name in WORKLOADS if (folder / f"{name}.sqlite").exists()]:
        joined = join(folder, name)
        rows += [{"workload": name, **row} for row in summary(joined)]
        if not name.endswith(("b", "c", "512")):
            command("-m", "dsocr_nvtx", "report", str(joined), "-o", str(out / f"review-{name}.html"),
                    "--title", f"DeepSeek-OCR on an H200: {name}", "--force")  # fmt: skip
    command("-m", "dsocr_nvtx", "report", str(folder / f"graph-{PAGES}.dsocr"), "-o", str(out / "roofline.svg"),
            "--title", "DeepSeek-OCR, sixteen pages, CUDA-graph decode, one NVIDIA H200", "--force")  # fmt: skip
    for one, other in (("eager-1", "graph-1"), ("static-1", "static-1b")):
        command("-m", "dsocr_nvtx", "diff", f"{one}.dsocr", f"{other}.dsocr",
                "-o", str(out.resolve() / f"diff-{one}-{other}.html"), "--force",
                quiet=True, within=folder)  # fmt: skip
    (out / "review.md").write_text(page(rows), encoding="utf-8")


def join(folder: Path, name: str) -> Path:
    """Join a workload with what its run measured, under the roofs of this kind of GPU, and return the directory."""
    joined, run = folder / f"{name}.dsocr", folder / f"{name}.run"
    beside = ["--run", str(run)] if (run / "run.json").exists() else []
    command("-m", "dsocr_nvtx", "join", str(folder / f"{name}.sqlite"), *beside, "--ceilings",
            str(folder / "ceilings.arrow"), "-o", str(joined), "--force", quiet=True)  # fmt: skip
    return joined


def summary(joined: Path) -> list[dict[str, Any]]:
    """Return what every stage of a join comes to, a step of it, in ms; and the ladder's rungs."""
    from dsocr_nvtx.report.opened import open_joined
    from dsocr_nvtx.roofline.budget import budget
    from dsocr_nvtx.roofline.evidence import stage_steps
    from dsocr_nvtx.roofline.ladder import ladder

    opened = open_joined(joined)
    rungs = ladder(opened.kernels, opened.roofline.stages).to_pylist()
    found = []
    for stage in opened.roofline.stages.to_pylist():
        parts = budget(row for row in opened.roofline.rows.to_pylist() if row["stage"] == stage["stage"])
        steps = stage_steps(opened.ranges, stage)
        each = {name: ns / 1e6 / max(stage["steps"], 1) for name, ns in parts.items()}
        times = {rung["rung"]: rung["step_ns"] / 1e6 for rung in rungs if rung["stage"] == stage["stage"]}
        found.append({
            "stage": stage["stage"], "steps": stage["steps"], "bound": stage["bound"] or "not judged",
            "middle": statistics.median((steps.busy_ns + steps.idle_ns).tolist()) / 1e6, "dilation": stage["dilation"],
            "wall": stage["wall_ns"] / 1e6 / max(stage["steps"], 1), **each, "rungs": times,
        })  # fmt: skip
    return found


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of all workloads as Markdown."""
    names = ("workload", "stage", "bound", *COLUMNS)
    lines = [
        f"One NVIDIA H200, Nsight Systems 2025.3.1, {DATE}; `python3 reports/review.py capture DIR`, then `build`.",
        "Milliseconds a step, under the profiler; `slower`: against the same run without it. `-16`: sixteen different",
        "pages at once. The last three columns are rungs of the ladder, each on top of the one before.",
        "",
        f"| {' | '.join(names)} |",
        "|---|---|---|" + "--:|" * len(COLUMNS),
    ]
    for row in rows:
        idle = sum(row[f"idle_{cause}"] for cause in IDLE_CAUSES)
        values = {**row, **row["rungs"], "idle": idle}
        cells = ["" if values.get(key) is None else f"{values[key]:.2f}" for key in COLUMNS.values()]
        lines.append(f"| {row['workload']} | {row['stage']} | {row['bound']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def command(*words: str, quiet: bool = False, within: Path | None = None) -> None:
    """Run a command of this package with this interpreter."""
    said = subprocess.DEVNULL if quiet else None
    subprocess.run([sys.executable, *words], check=True, stdout=said, cwd=within)  # noqa: S603


if __name__ == "__main__":
    main()
