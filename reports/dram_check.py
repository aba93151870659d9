r"""DRAM bytes of every kind of layer by the GPU's own counters, beside what the analytic model says.

On a machine with Nsight Compute, first the measurement, then the table (the second needs no GPU):

    ncu --cache-control none --clock-control none --profile-from-start off --print-units base --csv --page raw \
        --metrics dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum --log-file DIR/ncu.csv \
        python3 reports/dram_check.py -o DIR
    python3 reports/dram_table.py -o DIR

A page is run through the true network as users run it. The profiler is on only while one of `LEAVES` or `WHOLES` is
open, with everything in the caches that the calls before left there; a spin kernel begins each, so that kernels find
their range by order. Writes ``cases.json``, from which the table is made.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from attrs import asdict
from dram_table import Case

from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS
from dsocr_nvtx.schema.records import COST_FIELDS, RangeRecord, Stage

STEPS = 5
"""Decode steps of each page."""

_TEXT = (
    "embed", "decoder.0.mlp", "decoder.5.input_norm", "decoder.5.attention", "decoder.5.moe.gate",
    "decoder.5.moe.experts", "decoder.5.moe.shared_experts", "decoder.norm", "lm_head",
)  # fmt: skip
LEAVES: dict[str, tuple[str, ...]] = {
    "vision": (
        "sam.patch_embed", "sam.0.norm1", "sam.0.attention", "sam.2.attention", "sam.0.mlp", "sam.neck", "sam.proj",
        "clip.embeddings", "clip.5.norm1", "clip.5.attention", "clip.5.mlp", "projector",
    ),
    "prefill": _TEXT,
    "decode": _TEXT,
}  # fmt: skip
"""Ranges measured in the first page: one of each kind of layer and stage. Vision's are called once per view."""

WHOLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "vision": (("sam.0", "sam.2", "clip.5"), ("image_features",)),
    "prefill": (("decoder.0", "decoder.5"), ("model",)),
    "decode": (("decoder.0", "decoder.5"), ("model",)),
}
"""Ranges that contain others, measured in pages two and three, since windows do not nest."""

WARM_STEPS = 2
"""Decode steps of a page that are not measured."""


class Window:
    """An emitter that opens the profiler's window around the ranges wanted, at the moments when they are pushed."""

    active = True
    announces = False

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.begin, self.end = begin, end
        self.wanted: frozenset[tuple[str, str]] = frozenset()
        self.first_decode_step = 0
        self.cases: list[Case] = []
        self._open: list[bool] = []
        self._seen: Counter[tuple[str, str, int]] = Counter()

    def prepare(self, path: str, stage: int, words: Any) -> object:
        """Return what `push` needs: the payload is read at that moment."""
        return (path, str(list(Stage)[stage]), words)

    def push(self, attributes: Any) -> object:
        """Open the window if this range is wanted."""
        path, stage, words = attributes
        values = dict(zip(PAYLOAD_FIELDS, map(int, words), strict=True))
        step = values["step"]
        # A whole step has 900 kernels, and profiling one takes milliseconds: one step of it will do.
        is_out = stage == "decode" and (
            step < self.first_decode_step or (path == "model" and step > self.first_decode_step)
        )
        wanted = (path, stage) in self.wanted and not is_out
        self._open.append(wanted)
        if wanted:
            view = self._seen[path, stage, step]
            self._seen[path, stage, step] += 1
            self.cases.append(Case(path, stage, step, view, values))
            self.begin()
        return None

    def pop(self) -> object:
        """Close the window if it was this range's."""
        if self._open.pop():
            self.end()
        return None

    def mark(self, _text: str) -> object:
        """Say nothing."""
        return None


def rounds() -> list[frozenset[tuple[str, str]]]:
    """Return the ranges wanted in each page."""
    pages = [LEAVES, *({stage: sets[n] for stage, sets in WHOLES.items()} for n in range(2))]
    return [frozenset((path, stage) for stage, paths in page.items() for path in paths) for page in pages]


def inclusive(records: Iterable[RangeRecord]) -> dict[int, dict[str, int]]:
    """Return, by event, what a range and all inside it cost, as counters see it; ``observed``: calls observed.

    A range is pushed after those around it, so that its event id is higher.
    """
    costs: dict[int, dict[str, int]] = {}
    for record in sorted(records, key=lambda one: -one.event_id):
        seen, weights = record.observed_weight_bytes, record.cost.weight_bytes
        own = {name: getattr(record.cost, name) for name in COST_FIELDS}
        own |= {"observed": int(seen is not None), "observed_weight_bytes": weights if seen is None else seen}
        inside = costs.get(record.event_id, {})
        costs[record.event_id] = {name: value + inside.get(name, 0) for name, value in own.items()}
        if record.parent_id is not None:
            around = costs.setdefault(record.parent_id, {})
            for name, value in costs[record.event_id].items():
                around[name] = around.get(name, 0) + value
    return costs


def measure(out: Path, device: str, config: str, experts: str, window: Window) -> None:
    """Run three pages, each with its windows, and write ``cases.json``."""
    import torch

    from dsocr_nvtx.hooks import hook
    from dsocr_nvtx.run.loop import Unobserved, run_pages
    from dsocr_nvtx.run.progress import run_progress
    from dsocr_nvtx.run.workload import RunOptions, prepare

    tiles = (2, 3) if config == "true" else (2, 1)
    options = RunOptions(device=device, config=config, tiles=tiles, max_new_tokens=1 + STEPS, experts=experts)
    with run_progress() as progress:
        work = prepare(options, progress)
        images = work.views.model_inputs()
        with hook(work.model, emitter=window, observe_experts=True) as session:
            with session.muted():
                run_pages(work.model, images, work.prompt, work.decoding, Unobserved())
            for number, wanted in enumerate(rounds()):
                progress.say(f"page {number + 1}: {len(wanted)} kinds of ranges")
                window.wanted, window.first_decode_step = wanted, number * STEPS + WARM_STEPS
                run_pages(work.model, images, work.prompt, work.decoding, session)
        if session.errors:
            raise SystemExit(f"errors inside hooks, so ranges are missing: {session.errors}")
    costs = inclusive(session.stats.records)
    for case in window.cases:
        cost = costs[case.values["event_id"]]
        case.observed_weight_bytes = cost.pop("observed_weight_bytes") if cost.pop("observed") else None
        case.values |= cost
    properties = torch.cuda.get_device_properties(work.device) if work.device.type == "cuda" else None
    about = {
        "device": properties.name if properties else "cpu",
        "l2_bytes": properties.L2_cache_size if properties else 0,
        "experts": experts,
        "prompt_tokens": work.prompt.shape[1],
    }
    cases = [asdict(case) for case in window.cases]
    (out / "cases.json").write_text(json.dumps({**about, "cases": cases}, indent=1) + "\n", encoding="utf-8")


def cuda_window() -> Window:
    """Return a window that is the CUDA profiler's own."""
    import torch

    def begin() -> None:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
        torch.cuda._sleep(1)  # type: ignore[no-untyped-call]  # the marker kernel

    def end() -> None:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]

    return Window(begin, end)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--experts", default="auto")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(arguments.out, "cuda:0", "true", arguments.experts, cuda_window())


if __name__ == "__main__":
    main()
