"""Decode modes, hook cost, timing sources, the ladder and energy on one GPU, each section on its own. Needs nsys.

    python3 reports/decode_check.py -o DIR [--only SECTION ...] [--skip SECTION ...]

A section that fails says why and loses only itself. Writes ``decode_check.json`` and ``decode_check.md`` after every
section, so that a run cut short keeps what it has.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

Row = tuple[str, str, str]
"""What was asked, what came out, and what the issue asks for."""

NSYS = ["nsys", "profile", "-t", "cuda,nvtx", "-s", "none", "--cpuctxsw=none", "--cuda-graph-trace=node",
        "--cuda-event-trace=false", "--force-overwrite=true"]  # fmt: skip
RANGE = ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"]
RUN = [sys.executable, "-m", "dsocr_nvtx.run", "--force"]
STEPS, REPEATS = 32, 8
SMALL: dict[str, Any] = {}
"""The small network on the CPU, which only shows that the sections run."""


@cache
def workload(mode: str, batch: int, decode: str) -> Any:
    """Return a workload; the model is built once, whatever the page and the decode mode."""
    from attrs import evolve

    from dsocr_nvtx.run import workload as module
    from dsocr_nvtx.run.progress import run_progress

    options = module.RunOptions(mode=mode, batch=batch, **SMALL)
    with run_progress() as progress:
        if _first:
            first, config = _first[0], _first[0].model.config
            pages = module._pages(options)
            views = module.page_views([p.image for p in pages], mode, None, module.base_side(config)).repeated(batch)
            prompt = module.prompt_ids(views.image_tokens(), config, None, None).to(first.device)
            found = evolve(first, views=views.to(first.device, first.dtype), prompt=prompt)
        else:
            found = module.prepare(options, progress)
            _first.append(found)
    return evolve(found, decoding=evolve(found.decoding, mode=decode, max_new_tokens=STEPS + 1))


_first: list[Any] = []


@contextmanager
def started(mode: str, batch: int, decode: str, session: Any = None) -> Iterator[Any]:
    """Yield a generation that has read its prompt and is ready to decode."""
    import torch

    from dsocr_nvtx.run.loop import Unobserved, decode_experts, start_pages

    work, session = workload(mode, batch, decode), session or Unobserved()
    with torch.inference_mode():
        state = start_pages(work.model, work.views.model_inputs(), work.prompt, work.decoding, session)
        with decode_experts(work.model, work.decoding):
            state.prepare(session)
            yield state
        torch.cuda.synchronize()


def identity(_out: Path) -> list[Row]:
    """Feed every mode the same tokens, each several times, and compare logits: with cuDNN's attention and without.

    cuDNN's does not always repeat itself (a step whose keys it splits adds the parts up in the order in which they are
    ready), so that modes can be held to each other only without it.
    """
    import torch

    from dsocr_nvtx.run.capture import attention_choice

    rows: list[Row] = []
    for cudnn, what in ((False, "without cuDNN's attention"), (True, "with cuDNN's attention")):
        with attention_choice(cudnn=cudnn):
            fed: list[Any] = []
            eager = _logits_of("eager", fed)
            runs = {mode: [_logits_of(mode, fed) for _ in range(REPEATS)] for mode in ("static", "graph")}
        base = runs["static"][0]
        for mode, found in runs.items():
            name = f"{mode} against static, same tokens, {what}" if mode == "graph" else f"static again, {what}"
            others = found if mode == "graph" else found[1:]
            same = [sum(torch.equal(a, b) for a, b in zip(base, other, strict=True)) for other in others]
            told = f"{min(same)} of {STEPS} at least, all in {same.count(STEPS)} of {len(others)} runs"
            rows.append((f"{name}: steps with bit-identical logits", told, "all" if not cudnn else ""))
        pairs = list(zip(eager, base, strict=True))
        worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
        agree = sum(int((a.argmax(-1) == b.argmax(-1)).all()) for a, b in pairs)
        asked = "bf16: below about 0.02"
        rows.append((f"eager and static, {what}: largest difference over largest logit", f"{worst:.4f}", asked))
        rows.append((f"eager and static, {what}: likeliest token agrees", f"{agree} of {STEPS}", ""))
    return rows


def _logits_of(decode: str, fed: list[Any]) -> list[Any]:
    """Return the logits of every step; each reads the token in ``fed``, which an eager run fills."""
    from dsocr_nvtx.run.loop import Unobserved

    session, found = Unobserved(), []
    with started("gundam", 1, decode) as state:
        for step in range(STEPS):
            if decode == "eager":
                fed.append(state.tokens[:, -1:].clone())
            else:
                state.ids.copy_(fed[step])
            state.decode(session)
            found.append(state.logits.float().clone())
    return found


def replay_times(_out: Path) -> list[Row]:
    """Time steps back to back without any tool, for both batches; hooks attached or not during replay."""
    import torch

    from dsocr_nvtx.hooks import hook
    from dsocr_nvtx.run.capture import attention_choice
    from dsocr_nvtx.run.loop import Unobserved

    rows: list[Row] = []
    with attention_choice(cudnn=False), started("gundam", 1, "eager") as state:
        taken = _steps(state, Unobserved())
    rows.append(("eager decode step, gundam, batch 1, without cuDNN's attention, no tool", f"{taken:.3f} ms", ""))
    for mode, batch in (("gundam", 1), ("base", 16)):
        for decode in ("eager", "static", "graph"):
            with started(mode, batch, decode) as state:
                taken = _steps(state, Unobserved())
            asked = "the ladder's graph rung: within 15 %" if decode == "graph" else ""
            rows.append((f"{decode} decode step, {mode}, batch {batch}, no tool", f"{taken:.3f} ms", asked))
    work = workload("gundam", 1, "graph")
    bare, hooked = [], []
    with hook(work.model) as session:
        for _ in range(4):
            for times, watcher in ((bare, Unobserved()), (hooked, session)):
                with started("gundam", 1, "graph", watcher) as state:
                    times.append(_steps(state, watcher))
        errors = list(session.errors)
    rows.append(("graph step, session told or not (medians of 4)", f"{sorted(hooked)[1]:.3f}, {sorted(bare)[1]:.3f} ms",
                 f"equal; errors: {errors or 'none'}"))  # fmt: skip
    with started("gundam", 1, "graph") as state:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        state.graph.replay()
        end.record()
        torch.cuda.synchronize()
        rows.append(("one graph launch between two CUDA events", f"{begin.elapsed_time(end):.3f} ms", ""))
    return rows


def replay_idle(_out: Path) -> list[Row]:
    """Hold an untraced replay to its kernels, and say what tracing a graph's nodes adds to the gaps between them."""
    import torch

    rows: list[Row] = []
    value = torch.zeros(32, device="cuda")
    short = torch.cuda.CUDAGraph()
    with torch.cuda.graph(short):
        for _ in range(500):
            value.add_(1)
    period = _replay_ms(short.replay) / 500 * 1e6
    _, kernels, gaps, _ = _traced(short.replay)
    added = (kernels + gaps) / 500 * 1e6 - period
    told = f"{period:.0f} ns untraced, {(kernels + gaps) / 500 * 1e6:.0f} ns traced ({gaps / 500 * 1e6:.0f} ns of gap)"
    rows.append(("period of a graph's node, 500 short kernels", told, ""))
    for mode, batch in (("gundam", 1), ("base", 16)):
        with started(mode, batch, "graph") as state, state.undone():
            whole = _replay_ms(state.graph.replay)
            nodes, kernels, gaps, span = _traced(state.graph.replay)
        idle = max(whole - kernels, 0.0) / whole
        told = (
            f"{idle:.1%} at most: {whole:.3f} ms untraced, its {nodes} operations take {kernels:.3f} ms; traced "
            f"{span:.3f} ms with gaps of {gaps:.3f} ms, of which the trace adds about {nodes * added / 1e6:.3f} ms"
        )
        rows.append((f"device idle within a replayed step, {mode}, batch {batch}", told, "5 %"))  # fmt: skip
    return rows


def _replay_ms(replay: Callable[[], None], count: int = 10) -> float:
    """Return the milliseconds from one launch of a graph to the next, the host ahead."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    replay()
    begin.record()
    for _ in range(count):
        replay()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / count


def _traced(replay: Callable[[], None], count: int = 6) -> tuple[int, float, float, float]:
    """Return (operations, their ms, ms of gaps between them, ms from first to last) of a launch, medians of several."""
    import numpy as np
    import torch

    from dsocr_nvtx.run.cupti_capture import CuptiCapture
    from dsocr_nvtx.run.cupti_library import OPERATIONS

    capture = CuptiCapture()
    torch.cuda.synchronize()
    with capture.recording():
        for _ in range(count):
            replay()
        torch.cuda.synchronize()
    records = capture.records()
    start, end, node = (
        np.concatenate([records[kind][name].astype(np.int64) for kind in OPERATIONS])
        for name in ("start", "end", "graph_node_id")
    )
    order = np.argsort(start[node != 0])
    start, end = start[node != 0][order].reshape(count, -1)[1:], end[node != 0][order].reshape(count, -1)[1:]
    gaps = np.maximum(start[:, 1:] - np.maximum.accumulate(end, axis=1)[:, :-1], 0).sum(axis=1)
    span = end.max(axis=1) - start[:, 0]
    found = (float(np.median(each)) / 1e6 for each in ((end - start).sum(axis=1), gaps, span))
    return (start.shape[1], *found)  # type: ignore[return-value]


def _steps(state: Any, session: Any) -> float:
    """Return the mean milliseconds of a step, the first few left out."""
    import torch

    for _ in range(4):
        state.decode(session)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS - 4):
        state.decode(session)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / (STEPS - 4) * 1e3


def hook_cost(out: Path) -> list[Row]:
    """Measure hooks, markers and record_function in turns."""
    from attrs import asdict

    from dsocr_nvtx.run.overhead import measure_overhead

    rows, kept = [], []
    asked = (("static", "layer", 150, "0.4 %"), ("static", "op", 150, "1.2 %"), ("eager", "op", 150, ""))
    for decode, level, rounds, limit in asked:
        for cost in measure_overhead(workload("base", 1, decode), level=level, rounds=rounds):
            kept.append(asdict(cost))
            rows.append((f"{cost.variant}, {decode} step, level {level}, no tool", _told(cost),
                         limit if cost.variant == "hooks" else ""))  # fmt: skip
    (out / "hook_cost.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return rows


def _told(cost: Any) -> str:
    low, high = cost.low_ns / cost.bare_ns, cost.high_ns / cost.bare_ns
    share = cost.cost_ns / cost.bare_ns
    each = cost.cost_ns / max(cost.calls, 1) / 1e3
    calls = f"; {each:.2f} us for each of {cost.calls}" if cost.calls else ""
    return f"{share:.2%} ({low:.2%} to {high:.2%}) of {cost.bare_ns / 1e6:.2f} ms{calls}"


def hook_cost_nsys(out: Path) -> list[Row]:
    """Measure the same with nsys attached: typed payloads are pushed."""
    from types import SimpleNamespace

    rows = []
    for decode in ("static", "eager"):
        found = out / f"overhead_nsys_{decode}.json"
        code = "from dsocr_nvtx.cli import main; main()"
        with tempfile.TemporaryDirectory() as folder:
            _command([*NSYS, "-o", f"{folder}/r", sys.executable, "-c", code, "overhead", "--decode", decode,
                      "--rounds", "150", "-o", str(found), "--force"])  # fmt: skip
        costs = [SimpleNamespace(**row) for row in json.loads(found.read_text())]
        rows += [
            (f"{c.variant}, {decode} step, level op, under nsys", _told(c), "3 %" if c.variant == "hooks" else "")
            for c in costs
        ]
    return rows


def graph_under_nsys(out: Path) -> list[Row]:
    """Profile graph decoding node by node, join it, and count layers and idle time step by step."""
    import numpy as np

    from dsocr_nvtx.schema.files import read_table

    report, run, joined = out / "graph", out / "run_graph", out / "graph.dsocr"
    _command([*NSYS, *RANGE, "-o", str(report), *RUN, "--decode", "graph", "--capture-range",
              "--max-new-tokens", str(STEPS + 1), "-o", str(run)])  # fmt: skip
    _join(report.with_suffix(".nsys-rep"), joined, run)
    ranges = read_table(joined / "ranges.arrow").to_pylist()
    prompt = json.loads((run / "run.json").read_text())["prompt_tokens"]
    layers = [r for r in ranges if r["origin"] == "replayed" and r["path"].startswith("decoder.")
              and r["path"].count(".") == 1]  # fmt: skip
    steps = sorted({r["step"] for r in layers})
    whole = [
        step
        for step in steps
        if sum(r["step"] == step and r["inclusive_launches"] > 0 and r["kv_len"] == prompt + 1 + step for r in layers)
        == 12
    ]
    kernels = read_table(joined / "kernels.arrow")
    decode = np.array(kernels["stage"].to_pylist()) == "decode"
    number = np.array([-1 if s is None else s for s in kernels["step"].to_pylist()])
    start, end = kernels["start_ns"].to_numpy(), kernels["end_ns"].to_numpy()
    shares, spans = [], []
    for step in steps:
        mine = decode & (number == step) & np.array([g is not None for g in kernels["graph_node_id"].to_pylist()])
        if mine.any():
            order = np.argsort(start[mine])
            s, e = start[mine][order], np.maximum.accumulate(end[mine][order])
            idle = int(np.maximum(s[1:] - e[:-1], 0).sum())
            spans.append(int(e[-1] - s[0]))
            shares.append(idle / spans[-1])
    shutil.rmtree(run, ignore_errors=True)
    report.with_suffix(".nsys-rep").unlink()
    graphs = json.loads((joined / "join.json").read_text()).get("graphs")
    return [
        ("steps whose 12 layers have kernels, at the KV length of that step", f"{len(whole)} of {len(steps)} ({STEPS})",
         "all"),
        ("gaps within a replayed step, node trace", f"median {np.median(shares):.2%}, worst {max(shares):.2%}", ""),
        ("replayed step on the device, node trace", f"{np.median(spans) / 1e6:.3f} ms", ""),
        ("graphs in the join's accounting", json.dumps(graphs), ""),
    ]  # fmt: skip


def _join(report: Path, out: Path, run: Path | None = None) -> None:
    from dsocr_nvtx.cli.join import join_report

    join_report(report, run=run, out=out, hardware=None, ceilings=None, force=True)


def _command(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {(done.stderr + done.stdout)[-1500:]}")
    return done.stdout + done.stderr


def three_sources(out: Path) -> list[Row]:
    """Run the same page under nsys, under CUPTI and with events; compare busy time per stage and decoder layer."""
    from dsocr_nvtx.schema.files import read_table

    more = ["--max-new-tokens", "32"]
    report = out / "eager"
    _command([*NSYS, *RANGE, "-o", str(report), *RUN, *more, "--capture-range", "-o", str(out / "run_nsys")])
    _command([*RUN, *more, "--timing", "cupti", "-o", str(out / "run_cupti")])
    _command([*RUN, *more, "--timing", "events", "-o", str(out / "run_events")])
    _join(report.with_suffix(".nsys-rep"), out / "nsys.dsocr", out / "run_nsys")
    _join(out / "run_cupti", out / "cupti.dsocr")
    nsys, cupti = (_busy(out / f"{name}.dsocr") for name in ("nsys", "cupti"))
    stages = {key: cupti[key] / nsys[key] - 1 for key in nsys if len(key) == 1 and key in cupti}
    layers = {key: cupti[key] / nsys[key] - 1 for key in nsys if len(key) == 2 and key in cupti and nsys[key]}
    events: dict[str, int] = {}
    for row in read_table(out / "run_events" / "ranges.arrow").to_pylist():
        if row["path"] == row["stage"]:
            events[row["stage"]] = events.get(row["stage"], 0) + (row["device_ns"] or 0)
    worst = max(layers.items(), key=lambda item: abs(item[1]))
    counts = [str(_operations(out / f"{name}.dsocr")) for name in ("nsys", "cupti")]
    rows = [("operations: nsys, CUPTI", ", ".join(counts), "equal")]
    rows += [(f"busy time of {key[0]}: CUPTI over nsys", f"{value:+.2%} of {nsys[key] / 1e6:.2f} ms", "within 2 %")
             for key, value in stages.items()]  # fmt: skip
    what = f"busy time of decoder layers, worst of {len(layers)} (stage, layer): CUPTI over nsys"
    rows.append((what, f"{worst[1]:+.2%} at {worst[0]}", "within 2 %"))
    rows += [(f"events of {stage} over nsys busy time", f"{spent / max(nsys.get((stage,), 0), 1):.2f} times",
              "at least 1") for stage, spent in events.items()]  # fmt: skip
    for name in ("run_nsys", "run_cupti", "run_events"):
        shutil.rmtree(out / name, ignore_errors=True)
    report.with_suffix(".nsys-rep").unlink()
    return rows


def _busy(joined: Path) -> dict[tuple[Any, ...], int]:
    """Return busy time by (stage,) and, of the decoder, by (stage, layer)."""
    from dsocr_nvtx.schema.files import read_table

    found: dict[tuple[Any, ...], int] = {}
    for row in read_table(joined / "roofline.arrow").to_pylist():
        keys: list[tuple[Any, ...]] = [(row["stage"],)]
        if row["module"] == "decoder" and row["layer"] is not None:
            keys.append((row["stage"], row["layer"]))
        for key in keys:
            found[key] = found.get(key, 0) + row["busy_owned_ns"]
    return found


def _operations(joined: Path) -> int:
    from dsocr_nvtx.schema.files import read_table

    return len(read_table(joined / "kernels.arrow"))


def cupti_cost(_out: Path) -> list[Row]:
    """Time eager decode steps of one KV length with CUPTI recording and without, block by block in random order.

    What each kind of record costs is told as well: those of operations, of the runtime's calls, and of the driver's.
    """
    import contextlib
    import random
    import statistics

    import torch
    from attrs import evolve

    from dsocr_nvtx.run import overhead as module
    from dsocr_nvtx.run.cupti_capture import CuptiCapture
    from dsocr_nvtx.run.cupti_library import CALLS, open_cupti

    library, runtime = open_cupti(), next(kind for kind, domain in CALLS.items() if domain == 2)
    recorded = {"on": library, "on, with hooks": library, "operations alone": evolve(library, calls=()),
                "operations, runtime's calls": evolve(library, calls=(runtime,))}  # fmt: skip
    compared = dict.fromkeys(("off, again", *recorded), "off") | {"on, with hooks": "hooks alone"}
    blocks: dict[str, list[float]] = {name: [] for name in ("off", "hooks alone", *compared)}
    operations, order = 0, random.Random(0)  # noqa: S311 - an order, no secret
    with started("gundam", 1, "eager") as state, contextlib.ExitStack() as stack:
        bare = module._Variant(name="bare")
        hooked = module._hooked("hooks", state.network, "op", stack)
        variants = {"hooks alone": hooked, "on, with hooks": hooked}
        for _ in range(24):
            for name in order.sample(list(blocks), len(blocks)):
                variant = variants.get(name, bare)
                capture = CuptiCapture(recorded[name]) if name in recorded else None
                with capture.recording() if capture is not None else contextlib.nullcontext():
                    times = [module._timed_step(state, variant, torch.device("cuda")) for _ in range(8)]
                if capture is not None:
                    operations = len(capture.records()[10]) // 8
                blocks[name].append(statistics.median(times[2:]))
    found = []
    for name, base in compared.items():
        # The first round of each is left out: it makes what the others find.
        pairs = [one / off - 1 for off, one in zip(blocks[base][1:], blocks[name][1:], strict=True)]
        low, high = module.median_interval(pairs)
        step = statistics.median(blocks[base]) / 1e6
        told = f"{statistics.median(pairs):.2%} ({low:.2%} to {high:.2%}) of {step:.2f} ms, {operations} kernels a step"
        found.append(
            (f"CUPTI's slowdown of an eager decode step, {name}", told, "at most 8 %" if name.startswith("on") else "")
        )
    return found


def completeness(out: Path) -> list[Row]:
    """Launch half a million kernels and count their records."""
    import torch

    from dsocr_nvtx.run.cupti_capture import CuptiCapture
    from dsocr_nvtx.schema.files import read_table

    count, value = 500_000, torch.zeros(32, device="cuda")
    value.add_(1)
    capture = CuptiCapture()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    with capture.recording():
        for _ in range(count):
            value.add_(1)
        torch.cuda.synchronize()
    ran = time.perf_counter() - begun
    with tempfile.TemporaryDirectory(dir=out) as folder:
        begun = time.perf_counter()
        found = capture.write(Path(folder), {})
        read = time.perf_counter() - begun
        launches = len(read_table(Path(folder) / "timings" / "launches.arrow"))
    told = f"{found} operations, {launches} calls, {capture.dropped} dropped; ran {ran:.1f} s, read in {read:.1f} s"
    return [(f"records of {count} kernels", told, "all")]


def dilation(out: Path) -> list[Row]:
    """Profile with a calibrating run beside."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        run = Path(folder) / "run"
        _command([*NSYS, *RANGE, "-o", f"{folder}/r", *RUN, "--capture-range", "--calibrate", "-o", str(run)])
        found = json.loads((run / "run.json").read_text())["dilation"]
    return [(f"dilation of {stage} under nsys", json.dumps(told), "") for stage, told in found.items()]


def ladder_rung(out: Path) -> list[Row]:
    """Predict the replayed step from an eager capture, and replay it, for both batches."""
    from dsocr_nvtx.roofline.ladder import ladder
    from dsocr_nvtx.roofline.measured import read_launching
    from dsocr_nvtx.run.loop import Unobserved
    from dsocr_nvtx.schema.files import read_table

    launching = read_launching(CEILINGS) if CEILINGS.is_file() else None
    rows: list[Row] = []
    for mode, batch in (("gundam", 1), ("base", 16)):
        with started(mode, batch, "graph") as state:
            measured = _steps(state, Unobserved())
        run, joined = out / f"run_ladder_{batch}", out / f"ladder_{batch}.dsocr"
        _command([*RUN, "--mode", mode, "--batch", str(batch), "--max-new-tokens", str(STEPS + 1), "--timing", "cupti",
                  "-o", str(run)])  # fmt: skip
        _join(run, joined)
        table = ladder(*(read_table(joined / f"{name}.arrow") for name in ("kernels", "stages")), launching)
        found = {row["rung"]: row for row in table.to_pylist() if row["stage"] == "decode"}
        step = {name: row["step_ns"] / 1e6 for name, row in found.items()}
        told = (f"{step['graph']:.3f} ms predicted, {measured:.3f} ms measured: {step['graph'] / measured - 1:+.1%}; "
                f"eager {step['now']:.2f} ms, {found['graph']['operations'] / found['graph']['steps']:.0f} operations, "
                f"gap {found['graph']['gap_ns'] or 0:.0f} ns")  # fmt: skip
        rows.append((f"ladder's graph rung, decode, {mode}, batch {batch}", told, "within 15 %"))
        for folder in (run, joined):
            shutil.rmtree(folder, ignore_errors=True)
    return rows


CEILINGS = Path(__file__).parent / "h200" / "ceilings.arrow"
"""What `ceilings` measured of launching on this kind of GPU; without it gaps are read from the capture."""


def energy(out: Path) -> list[Row]:
    """Run with the power watch, which repeats every stage alone for two seconds."""
    from dsocr_nvtx.schema.files import read_table

    run = out / "run_power"
    _command([*RUN, "--power", "--decode", "graph", "--max-new-tokens", str(STEPS + 1), "-o", str(run)])
    found = [row for row in read_table(run / "energy.arrow").to_pylist() if row["source"] == "repeated"]
    shutil.rmtree(run, ignore_errors=True)
    rows = []
    for row in found:
        told = row["verdict"]
        if row["joules"] is not None:
            told = (f"{row['joules']:.0f} J, +-{row['uncertainty_j'] / row['joules']:.1%}, in {row['seconds']:.2f} s; "
                    f"{row['tokens_per_joule']:.2f} tokens per joule")  # fmt: skip
        rows.append((f"energy of {row['stage']}, repeated alone", told, "2 s or more; uncertainty, or unresolved"))
    return rows


SECTIONS: dict[str, Callable[[Path], list[Row]]] = {
    "identity": identity,
    "replay": replay_times,
    "replay-idle": replay_idle,
    "hooks": hook_cost,
    "cupti-cost": cupti_cost,
    "complete": completeness,
    "graph-nsys": graph_under_nsys,
    "three-sources": three_sources,
    "hooks-nsys": hook_cost_nsys,
    "dilation": dilation,
    "ladder": ladder_rung,
    "energy": energy,
}


def _page(rows: list[Row], notes: list[str]) -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    head = [f"# Decode modes, hooks and timing on {device}, {time.strftime('%Y-%m-%d', time.gmtime())}", "",
            f"`python3 {' '.join(sys.argv)}`; torch {torch.__version__}", "",
            "| what | found | asked |", "|---|---|---|"]  # fmt: skip
    return (
        "\n".join([*head, *(f"| {a} | {b} | {c} |" for a, b, c in rows), "", *(f"- {note}" for note in notes)]) + "\n"
    )


def main() -> None:
    """Run the sections one after another and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, default=Path(os.environ.get("OUT", "reports")))
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--skip", nargs="*", choices=SECTIONS, default=[])
    parser.add_argument("--small", action="store_true", help="The small network on the CPU.")
    arguments = parser.parse_args()
    if arguments.small:
        SMALL.update(config="tiny", device="cpu")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    notes: list[str] = []
    for name in arguments.only:
        if name in arguments.skip:
            continue
        begun = time.perf_counter()
        try:
            rows += SECTIONS[name](arguments.out)
            notes.append(f"{name}: {time.perf_counter() - begun:.0f} s")
        except Exception as error:  # noqa: BLE001 - a section that fails loses only itself
            traceback.print_exc()
            notes.append(
                f"{name} FAILED after {time.perf_counter() - begun:.0f} s: {type(error).__name__}: {error}"[:600]
            )
        print(notes[-1], flush=True)
        (arguments.out / "decode_check.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "decode_check.md").write_text(_page(rows, notes), encoding="utf-8")
    print(_page(rows, notes))


if __name__ == "__main__":
    main()
