"""What observing experts costs, paired within one run, and whether it tells the truth. Needs a GPU; about a minute.

    python3 reports/experts_cost.py -o DIR

Sixteen different pages are decoded together with the hooks attached; of every two steps one counts experts and one does
not, in random order, so that clocks, cache length and temperature are the same for both; the static cache by default,
because a growing one makes cuDNN plan in every step, which would make the step longer and the cost look smaller. Then
the counts are compared with the router's own results, read step by step; last, sixteen copies of one page must hit
top-k experts each. Writes ``experts_cost.json`` and ``experts_cost.md``.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve

PAGES = 16
WARM_STEPS = 8


def different_pages(folder: Path, count: int) -> tuple[str, ...]:
    """Draw pages that differ and return their files."""
    from dsocr_nvtx.run.pages import drawn_page

    paths = [folder / f"page{seed}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        drawn_page(seed).image.save(path)
    return tuple(map(str, paths))


class Switch:
    """A session for the run loop that switches the observer for each decode step and times the step, waits included."""

    def __init__(self, session: Any, wait: Any, seed: int = 0) -> None:
        self.session, self.wait, self.random = session, wait, random.Random(seed)  # noqa: S311 - an order, no secret
        self.pending: list[bool] = []
        self.seconds: list[tuple[bool, float]] = []

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the loop asks a session for."""
        return getattr(self.session, name)

    @contextmanager
    def step(self, stage: str) -> Iterator[None]:
        """Run one step; a decode step observes or not as the pair's order says."""
        if stage != "decode":
            self.session.observer.enabled = True
            with self.session.step(stage):
                yield
            return
        if not self.pending:
            self.pending = self.random.sample([True, False], 2)
        on = self.session.observer.enabled = self.pending.pop()
        self.wait()
        started = time.perf_counter()
        with self.session.step(stage):
            yield
        self.wait()
        self.seconds.append((on, time.perf_counter() - started))

    def pairs(self) -> list[tuple[float, float]]:
        """Return (with, without) of every pair of steps after the first few."""
        steps = self.seconds[WARM_STEPS:]
        halves = zip(steps[::2], steps[1::2], strict=False)
        return [(a[1], b[1]) if a[0] else (b[1], a[1]) for a, b in halves]


def relative_cost(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the median of the paired differences over the median step without, and its 95% interval."""
    from dsocr_nvtx.run.overhead import median_interval

    without = statistics.median(off for _, off in pairs)
    differences = [on - off for on, off in pairs]
    low, high = median_interval(differences)
    return {
        "pairs": len(pairs),
        "step_ms": without * 1e3,
        "cost": statistics.median(differences) / without,
        "low": low / without,
        "high": high / without,
    }


@contextmanager
def routers(model: Any) -> Iterator[list[int]]:
    """Yield a list that takes, call by call, the distinct experts of the routers' own results: reading them waits."""
    found: list[int] = []
    layers = model.model.language_model.layers
    handles = [
        layer.mlp.gate.register_forward_hook(lambda _m, _a, out: found.append(out[2].unique().numel()))
        for layer in layers
        if hasattr(layer.mlp, "gate")
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check(options: Any, steps: int) -> dict[str, Any]:
    """Run everything and return the numbers."""
    import torch

    from dsocr_nvtx.hooks import hook
    from dsocr_nvtx.run.loop import run_pages
    from dsocr_nvtx.run.progress import run_progress
    from dsocr_nvtx.run.workload import prepare, wait_for
    from dsocr_nvtx.schema.records import Stage

    with run_progress() as progress, tempfile.TemporaryDirectory() as folder:
        work = prepare(evolve(options, pages=different_pages(Path(folder), PAGES)), progress)

        def run(images: Any, prompt: Any, session: Any, count: int) -> None:
            run_pages(work.model, images, prompt, evolve(work.decoding, max_new_tokens=1 + count), session)

        images, prompt = work.views.model_inputs(), work.prompt
        progress.say(f"{steps} decode steps, every other one observed")
        with hook(work.model, observe_experts=True) as session:
            switch = Switch(session, partial(wait_for, work.device))
            run(images, prompt, switch, steps)
        decode = [call for call in session.stats.experts if call.stage is Stage.DECODE]
        progress.say("observed against the routers' own results")
        with hook(work.model, observe_experts=True) as checked, routers(work.model) as truth:
            run(images, prompt, checked, 4)
        progress.say("sixteen copies of one page")
        same = {name: _copies(value) for name, value in images.items()}
        with hook(work.model, observe_experts=True) as copies:
            run(same, prompt, copies, 4)
        errors = [*session.errors, *checked.errors, *copies.errors]
    return {
        "device": torch.cuda.get_device_name(work.device) if work.device.type == "cuda" else "cpu",
        "batch": PAGES,
        "decode": options.decode,
        "layers_observed": len({call.layer for call in decode}),
        **relative_cost(switch.pairs()),
        "distinct": statistics.mean(call.distinct for call in decode),
        "expected": decode[0].expected_experts,
        "weight_gb_per_step_observed": _per_step(decode, "observed_weight_bytes") / 1e9,
        "weight_gb_per_step_expected": _per_step(decode, "expected_weight_bytes") / 1e9,
        "calls_checked": len(truth),
        "calls_that_agree": sum(c.distinct == t for c, t in zip(checked.stats.experts, truth, strict=True)),
        "copies_distinct": dict(Counter(c.distinct for c in copies.stats.experts if c.stage is Stage.DECODE)),
        "errors": errors,
    }


def _per_step(calls: Sequence[Any], name: str) -> float:
    return float(sum(getattr(call, name) for call in calls)) / len({call.step for call in calls})


def _copies(value: Any) -> Any:
    """Return the first page's part of a model input, as often as there are pages."""
    if hasattr(value, "repeat"):  # a tensor: [pages, ...], or None without tiles
        return value[:1].repeat(PAGES, 1, 1, 1)
    return value[:1] * PAGES if isinstance(value, list) else value


def report(found: dict[str, Any]) -> str:
    """Return the numbers as a page of text."""
    lines = [
        "# What observing experts costs",
        "",
        f"{found['device']}, batch of {found['batch']} different pages, {found['pairs']} pairs of {found['decode']} "
        "decode steps.",
        "",
        f"- cost: {found['cost']:.2%} of a decode step of {found['step_ms']:.2f} ms "
        f"(95% interval {found['low']:.2%} to {found['high']:.2%}; at most 1% is asked)",
        f"- distinct experts per layer and step: {found['distinct']:.2f} observed, {found['expected']:.2f} expected",
        f"- routed weights per step: {found['weight_gb_per_step_observed']:.3f} GB observed, "
        f"{found['weight_gb_per_step_expected']:.3f} GB expected",
        f"- {found['calls_that_agree']} of {found['calls_checked']} calls agree with the routers' own results",
        f"- {found['batch']} copies of one page, distinct experts: calls = {found['copies_distinct']}",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    from dsocr_nvtx.run.workload import RunOptions

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--mode", default="base")
    parser.add_argument("--experts", default="auto")
    parser.add_argument("--decode", choices=["eager", "static"], default="static")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = check(RunOptions(mode=arguments.mode, experts=arguments.experts, decode=arguments.decode), arguments.steps)
    (arguments.out / "experts_cost.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "experts_cost.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
