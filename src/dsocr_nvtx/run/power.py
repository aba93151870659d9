"""`run --power`: gauges sampled while a run records, then every stage repeated on its own until its energy is known."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import torch
from attrs import define, evolve, field

from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.measure.energy import LEAST_SECONDS, Span, StageTime, stage_energy
from dsocr_nvtx.measure.gauge import Gauge, open_gauge
from dsocr_nvtx.measure.sampling import Sampler
from dsocr_nvtx.run.decoding import Generation, Network, Static, generation
from dsocr_nvtx.run.loop import Unobserved, decode_experts
from dsocr_nvtx.run.progress import RunProgress
from dsocr_nvtx.run.workload import Workload
from dsocr_nvtx.schema.files import read_table, write_table
from dsocr_nvtx.schema.gauges import ENERGY
from dsocr_nvtx.schema.tables import conform

PERIOD_S: Final = 0.02
"""Between two samples: NVML's own values change every 20 to 100 ms."""


@define
class PowerWatch:
    """The samples of a run, and where its stages lie in them."""

    sampler: Sampler
    wait: Callable[[], None] = torch.cuda.synchronize
    repeated: list[StageTime] = field(factory=list)

    def repeat(self, work: Workload, progress: RunProgress, seconds: float = LEAST_SECONDS * 1.05) -> None:
        """Run vision, prefill and decode each on its own, again and again for so long, unhooked."""
        decoding = evolve(work.decoding, stop_ids=(), rehearse=True)
        network, images = cast("Network", work.model), work.views.model_inputs()
        pages, prompt = work.prompt.shape
        progress.stage("energy per stage", 3)
        with torch.inference_mode():
            features = network.model.get_image_features(**images, return_dict=True)
            self._repeat("vision", sum(work.views.image_tokens()), seconds, lambda: network.model.get_image_features(
                **images, return_dict=True
            ))  # fmt: skip
            progress.step("vision", 0)

            def read_prompt() -> Generation:
                state = generation(network, work.prompt, decoding)
                state.read_prompt(features)
                return state

            self._repeat("prefill", pages * prompt, seconds, read_prompt)
            progress.step("prefill", 0)
            steps = decoding.max_new_tokens - 1
            if steps:
                switched = partial(decode_experts, work.model, decoding)
                self._repeat_decoding(read_prompt, switched, steps, pages * steps, seconds)
            progress.step("decode", 0)

    def _repeat(self, stage: str, tokens: int, seconds: float, once: Callable[[], object]) -> None:
        """Repeat a call in one span, waiting for the device each time, so that the span ends when it should."""
        once()
        count = 0
        self.wait()
        start = self.sampler.now()
        while self.sampler.clock() - start < seconds * 1e9:
            once()
            self.wait()
            count += 1
        span = Span(start_ns=start, end_ns=self.sampler.now())
        self.repeated.append(StageTime(stage=stage, source="repeated", spans=(span,), tokens=count * tokens))

    def _repeat_decoding(
        self, read_prompt: Callable[[], Generation], switched: Callable[[], AbstractContextManager[None]], steps: int,
        tokens: int, seconds: float,
    ) -> None:  # fmt: skip
        """Repeat the decode steps of a page, from the same prompt each time.

        A static cache is wound back, so that all of it is one span; one that grows is made anew between spans. Only
        the steps run ``switched``: a prompt of many pages does not fit the memory with the experts of a decode step.
        """
        state = read_prompt()
        with switched():
            state.prepare(Unobserved())
            if isinstance(state, Static):
                self._repeat("decode", tokens, seconds, partial(_decode_and_rewind, state, steps))
                return
        spans: list[Span] = []
        while sum(span.end_ns - span.start_ns for span in spans) < seconds * 1e9:
            state = read_prompt()
            self.wait()
            start = self.sampler.now()
            with switched():
                _decode(state, steps)
            self.wait()
            spans.append(Span(start_ns=start, end_ns=self.sampler.now()))
        self.repeated.append(
            StageTime(stage="decode", source="repeated", spans=tuple(spans), tokens=len(spans) * tokens)
        )

    def write(self, directory: Path) -> list[dict[str, object]]:
        """Write ``power.arrow`` and ``energy.arrow`` into a run's directory, and return the rows of the latter."""
        readings = self.sampler.readings
        write_table(self.sampler.table(), directory / "power.arrow")
        ranges = directory / "ranges.arrow"
        found = [*(recorded_stages(ranges) if ranges.is_file() else ()), *self.repeated]
        rows = [stage_energy(stage, readings) for stage in found]
        write_table(
            conform({name: [row[name] for row in rows] for name in ENERGY.names}, ENERGY), directory / "energy.arrow"
        )
        return rows


def _decode(state: Generation, steps: int) -> None:
    quiet = Unobserved()
    for _ in range(steps):
        state.decode(quiet)


def _decode_and_rewind(state: Static, steps: int) -> None:
    held = state.held
    with state.undone():
        _decode(state, steps)
    state.held = held


def recorded_stages(ranges: Path) -> list[StageTime]:
    """Return where the stages of the recorded part ran, by the host's times of their steps.

    The device may still work when a step's call returns: where the host is ahead, a stage's time is that of the host.
    """
    table = read_table(ranges)
    rows = [row for row in table.select(_COLUMNS).to_pylist() if row["level"] == "stage"]
    found = []
    for stage in ("vision", "prefill", "decode"):
        outer = [row for row in rows if row["stage"] == stage and row["parent_id"] is None]
        if not outer:
            continue
        span = Span(start_ns=min(r["host_start_ns"] for r in outer), end_ns=max(r["host_end_ns"] for r in outer))
        tokens = sum(r["batch"] * r["tokens"] for r in rows if r["stage"] == stage and r["path"] in _WHOLE)
        found.append(StageTime(stage=stage, source="run", spans=(span,), tokens=tokens))
    return found


_COLUMNS: Final = ["path", "level", "stage", "parent_id", "batch", "tokens", "host_start_ns", "host_end_ns"]
_WHOLE: Final = ("model", "image_features")
"""Paths of the ranges whose rows are a stage's tokens."""


@contextmanager
def power_watch(device: torch.device, *, wanted: bool, gauge: Gauge | None = None) -> Iterator[PowerWatch | None]:
    """Yield a watch whose thread samples until the block ends, or None where none is wanted.

    Refused, before anything is built: a run on the CPU, and a machine on which NVML does not answer.
    """
    if not wanted:
        yield None
        return
    if gauge is None and device.type != "cuda":
        raise UsageError("--power reads a GPU's gauges: it does not go with --device cpu")
    opened: Any = None
    if gauge is None:
        gauge = opened = open_gauge(str(torch.cuda.get_device_properties(device).uuid))
    try:
        with Sampler(gauge, PERIOD_S) as sampler:
            yield PowerWatch(sampler, (lambda: None) if device.type == "cpu" else torch.cuda.synchronize)
    finally:
        if opened is not None:
            opened.close()


def energy_lines(rows: list[dict[str, object]]) -> Iterator[str]:
    """Yield what to tell the user, one line per stage that was repeated."""
    for row in rows:
        if row["source"] != "repeated":
            continue
        if row["joules"] is None:
            yield f"energy of {row['stage']}: {row['verdict']}"
            continue
        each, share = cast("float", row["tokens_per_joule"]), cast("float", row["uncertainty_j"])
        share /= cast("float", row["joules"])
        watts = f"{row['power_w']:.0f} W" if row["power_w"] is not None else "unknown power"
        held = f", held down by {row['throttle']}" if row["throttle"] else ""
        yield f"energy of {row['stage']}: {each:,.2f} tokens per joule, +-{share:.0%}, at {watts}{held}"
