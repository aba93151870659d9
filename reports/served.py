"""DeepSeek-OCR under vLLM on one GPU: captures under nsys, what hooks cost, and whether tokens stay.

    python3 reports/served.py measure DIR [--only NAME ...]   # needs an NVIDIA GPU, nsys and vLLM: minutes a name

Per name ``measure`` runs processes under nsys: the pages hooked, and where the name is paired also bare, in turns. It
writes ``NAME.json`` (decode steps in milliseconds of every process, tokens equal or not, what `dsocr-nvtx join` says)
and ``NAME.tar.xz`` (the join's tables and, where it is small enough, the export). A name that fails says so in its
JSON; the others go on.
"""

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCENARIOS: dict[str, dict[str, Any]] = {
    "default": {"pages": 16, "tokens": 128, "paired": 2},
    # Hooks on and off in one process, eight steps each in turn: what they cost on the host, to a microsecond.
    "turns": {"pages": 16, "tokens": 512, "turns": 8},
    "one": {"pages": 1, "tokens": 128, "paired": 1},
    "eager": {"pages": 16, "tokens": 32, "engine": {"enforce_eager": True}, "paired": 1},
    "process": {"pages": 16, "tokens": 64, "own_process": True},
    # Prompts of some 950 rows in pieces beside sequences that decode, one page behind the other.
    "mixed": {"pages": 16, "tokens": 64, "engine": {"max_num_batched_tokens": 1024, "max_num_seqs": 8}},
}
"""What is run: pages at once, tokens of each, arguments of vLLM's LLM; paired: so many times bare and hooked."""

NSYS = (
    "nsys", "profile", "-t", "cuda,nvtx", "-s", "none", "--cpuctxsw=none", "--cuda-graph-trace=node",
    "--cuda-event-trace=false", "--trace-fork-before-exec=true", "--force-overwrite=true",
)  # fmt: skip
ENGINE = {"max_model_len": 4096, "gpu_memory_utilization": 0.4}
LIMIT_S = 280
MOST_BYTES = 15_000_000


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    measuring = actions.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    measuring.add_argument("--config", default="true", choices=("true", "tiny"))
    serving = actions.add_parser("serve")
    serving.add_argument("told", help="JSON: what to serve, and where to write what came of it")
    asked = parser.parse_args()
    if asked.action == "serve":
        serve(json.loads(asked.told))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.only:
        started = time.monotonic()
        try:
            result = measured(name, asked.folder, asked.config)
        except Exception as error:  # noqa: BLE001 - the other names go on
            result = {"failed": f"{type(error).__name__}: {error}"}
        result["seconds"] = round(time.monotonic() - started, 1)
        (asked.folder / f"{name}.json").write_text(json.dumps(result, indent=1))
        print(name, json.dumps({key: value for key, value in result.items() if key != "join"}), flush=True)


def measured(name: str, folder: Path, config: str) -> dict[str, Any]:
    """Run a scenario's processes and join the first hooked one's report; return what came of them."""
    scenario, work = SCENARIOS[name], Path(tempfile.gettempdir()) / "served"
    work.mkdir(exist_ok=True)
    runs: list[dict[str, Any]] = []
    for turn in range(scenario.get("paired", 1)):
        for hooks in (False, True) if "paired" in scenario else (True,):
            report = work / f"{name}-{'hooked' if hooks else 'bare'}-{turn}"
            runs.append(profiled(scenario, report, hooks, config))
            print(name, turn, "hooked" if hooks else "bare", runs[-1].get("step_ms"), flush=True)
    result: dict[str, Any] = {"scenario": scenario, "runs": [{k: v for k, v in r.items() if k != "made"} for r in runs]}
    made = [run["made"] for run in runs if "made" in run]
    result["tokens_equal"] = all(one == made[0] for one in made) if len(made) == len(runs) else None
    steps = {hooks: [run["step_ms"] for run in runs if run["hooks"] is hooks and "step_ms" in run] for hooks in (0, 1)}
    if steps[0] and steps[1]:
        result["hooked_over_bare"] = round(statistics.median(steps[1]) / statistics.median(steps[0]), 4)
    hooked = next(run["report"] for run in runs if run["hooks"])
    return {**result, **joined(name, Path(hooked), folder)}


def profiled(scenario: dict[str, Any], report: Path, hooks: bool, config: str) -> dict[str, Any]:
    """Run one process under nsys; return what it wrote, or why it did not."""
    answer = report.with_suffix(".answer.json")
    answer.unlink(missing_ok=True)
    told = {"scenario": scenario, "hooks": hooks, "config": config, "answer": str(answer)}
    command = [*NSYS, "-o", str(report), sys.executable, __file__, "serve", json.dumps(told)]
    with report.with_suffix(".log").open("w") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False)  # noqa: S603
            code: object = done.returncode
        except subprocess.TimeoutExpired:
            code = f"no end after {LIMIT_S} s"
    found: dict[str, Any] = {"hooks": hooks, "exit": code, "report": str(report.with_suffix(".nsys-rep"))}
    if answer.exists():
        found |= json.loads(answer.read_text())
    else:
        found["log"] = report.with_suffix(".log").read_text()[-3000:]
    return found


def joined(name: str, report: Path, folder: Path) -> dict[str, Any]:
    """Export and join a report, and pack the tables, and the export where it is small; return what join says."""
    export, tables = report.with_suffix(".sqlite"), report.with_suffix(".dsocr")
    _run("nsys", "export", "-t", "sqlite", "--include-blobs", "true", "--force-overwrite", "true",
         "-o", str(export), str(report))  # fmt: skip
    said = _run(sys.executable, "-m", "dsocr_nvtx", "join", str(export), "-o", str(tables), "--force")
    packed = folder / f"{name}.tar.xz"
    with tarfile.open(packed, "w:xz", preset=1) as archive:
        for file in sorted(tables.glob("*")) if tables.exists() else ():
            if file.name not in ("kernels.arrow", "api_calls.arrow") or file.stat().st_size < MOST_BYTES:
                archive.add(file, file.name)
        archive.add(report.with_suffix(".log"), "log.txt")
    small = lzma.compress(export.read_bytes(), preset=1) if export.exists() else b""
    if 0 < len(small) < MOST_BYTES:
        (folder / f"{name}.sqlite.xz").write_bytes(small)
    return {"join": said, "export_bytes": len(small)}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)  # noqa: S603
    return f"exit {done.returncode}\n{(done.stdout + done.stderr)[-6000:]}"


def serve(told: dict[str, Any]) -> None:
    """Serve pages in this process, after a warm-up with one of them; write the time of every step, and the tokens."""
    from dsocr_nvtx.run.pages import drawn_page
    from dsocr_nvtx.run.served import ServedOptions, engine_of, generated, model_folder, set_environment

    scenario = told["scenario"]
    options = ServedOptions(
        config=told["config"], hooks=told["hooks"], own_process=scenario.get("own_process", False),
        engine_options={**ENGINE, "max_num_seqs": scenario["pages"], **scenario.get("engine", {})},
    )  # fmt: skip
    pages = tuple(drawn_page(seed) for seed in range(scenario["pages"]))
    set_environment(options, print)
    with model_folder(options) as folder:
        started = time.perf_counter()
        engine = engine_of(options, folder, len(pages))
        answer: dict[str, Any] = {"start_s": round(time.perf_counter() - started, 1)}
        generated(engine, options, pages[:1], 4)
        steps = Steps(engine.llm_engine.step, turns=scenario.get("turns", 0) if told["hooks"] else 0)
        engine.llm_engine.step = steps
        started = time.perf_counter()
        outputs = generated(engine, options, pages, scenario["tokens"])
        answer["seconds"] = round(time.perf_counter() - started, 3)
        answer |= steps.told(scenario["tokens"])
        answer["made"] = [list(output.outputs[0].token_ids) for output in outputs]
        answer["prompt_tokens"] = sorted({len(output.prompt_token_ids) for output in outputs})
        answer |= _hooks_say()
        Path(told["answer"]).write_text(json.dumps(answer))


class Steps:
    """The engine's own steps, timed; with ``turns`` hooks are off in every second block of so many."""

    def __init__(self, inner: Callable[[], Any], turns: int) -> None:
        self.inner, self.turns, self.ms = inner, turns, list[tuple[float, bool]]()

    def __call__(self) -> Any:
        """Make a step."""
        off = bool(self.turns) and len(self.ms) // self.turns % 2 == 1
        if self.turns:
            _serving().idle.paused = off
        started = time.perf_counter()
        made = self.inner()
        self.ms.append((1000 * (time.perf_counter() - started), off))
        return made

    def told(self, tokens: int) -> dict[str, Any]:
        """Return the middle decode step in milliseconds, and with turns that of steps with hooks and without."""
        decode = self.ms[-(tokens - 8) :]
        every = sorted(ms for ms, _ in decode)
        found: dict[str, Any] = {"step_ms": round(statistics.median(every), 4), "steps": len(self.ms)}
        found["spread_ms"] = [round(every[int(len(every) * part)], 4) for part in (0.1, 0.9)]
        if self.turns:
            on, off = ([ms for ms, paused in decode if paused is wanted] for wanted in (False, True))
            found["turns_ms"] = [round(statistics.median(part), 4) for part in (on, off)]
            found["on_over_off"] = round(statistics.median(on) / statistics.median(off), 4)
        return found


def _serving() -> Any:
    return sys.modules["dsocr_nvtx.serving.plugin"]._SERVING  # type: ignore[attr-defined]


def _hooks_say() -> dict[str, Any]:
    """Return what went wrong in the hooks of this process, and what was checked."""
    if "dsocr_nvtx.serving.plugin" not in sys.modules or _serving() is None:
        return {}
    serving = _serving()
    session = serving.session
    checks = "" if session is None else session.forwards.checks.summary
    return {"errors": [*serving.errors, *(session.errors if session else ["no session"])], "checks": checks}


if __name__ == "__main__":
    main()
