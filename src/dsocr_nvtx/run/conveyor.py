"""The loop of a run of many pages: batch after batch through the model, inside one window, one record per page."""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from itertools import chain
from typing import TYPE_CHECKING

import torch
from attrs import evolve
from torch import nn

from dsocr_nvtx.measure.energy import Span, StageTime, stage_energy
from dsocr_nvtx.run.cupti_capture import CuptiCapture
from dsocr_nvtx.run.decoding import Decoding
from dsocr_nvtx.run.loop import Unobserved, run_pages
from dsocr_nvtx.run.page_records import PageRecord, one_line
from dsocr_nvtx.run.pages import Page, drawn_page, load_page
from dsocr_nvtx.run.power import PowerWatch
from dsocr_nvtx.run.progress import RunProgress
from dsocr_nvtx.run.queue import Queued, batches
from dsocr_nvtx.run.ranks import REPEAT_EVERY, rank_marker
from dsocr_nvtx.run.stage_clock import StageClock
from dsocr_nvtx.run.timing import choose_timing
from dsocr_nvtx.run.window import hooked, observes_experts, profiler_window
from dsocr_nvtx.run.workload import (
    RunOptions,
    Setup,
    Workload,
    batch_of,
    decoding_of,
    made_ready,
    wait_for,
    warm_up_decoding,
)
from dsocr_nvtx.schema.ranks import Rank

if TYPE_CHECKING:
    from dsocr_nvtx.hooks import HookSession

STAGES = ("vision", "prefill", "decode")


class Conveyor:
    """Runs the pages of ``records`` and fills the records in; ``lost`` says why the device was given up, if it was."""

    model: nn.Module

    def __init__(
        self, options: RunOptions, setup: Setup, rank: Rank, records: list[PageRecord], progress: RunProgress,
        watch: PowerWatch | None,
    ) -> None:  # fmt: skip
        self.options, self.setup, self.rank = options, setup, rank
        self.records, self.progress, self.watch = records, progress, watch
        self.session: HookSession | None = None
        self.timing = "none"
        self.cupti: CuptiCapture | None = None
        self.tokens: dict[int, list[int]] = {}
        self.seconds = 0.0
        self.lost = ""
        self._mark = rank_marker(rank)
        self._batches = 0
        self._shapes: set[tuple[int, ...]] = set()
        self._clock = StageClock(Unobserved(), setup.device)

    def run(self, build: Callable[[], nn.Module]) -> None:
        """Run every page that can be run; the first batch is run unrecorded before, as often as asked.

        ``build`` makes the model when the first batch is there: pages none of which can be read cost no model.
        """
        options, device = self.options, self.setup.device
        queue = batches(self.records, options.batch or 1, options.mode, options.tiles, self._say_failed, self._load)
        first = next(queue, None)
        if first is None:
            return
        self.model = build()
        self.timing, self.cupti = choose_timing(options.timing, device, self.progress.say)
        with ExitStack() as stack:
            if options.hooks:
                self.session = stack.enter_context(hooked(self.model, device, options, self.timing))
                self._clock.session = self.session
            window = ExitStack()
            try:
                self._convey(chain([first], queue), window)
            finally:
                # On a device that was lost, closing the window fails as well, and its records are wanted all the same.
                with suppress(Exception) if self.lost else nullcontext():
                    window.close()

    def _convey(self, queue: Iterable[tuple[Queued, ...]], window: ExitStack) -> None:
        options = self.options
        begun = None
        for group in queue:
            if begun is None:
                if options.warmup and not self._tried(group, self._warm_up):
                    if self.lost:
                        break
                    continue
                self._open(window)
                begun = time.perf_counter()
            self._tried(group, self._record)
            if self.lost:
                break
        self.seconds = time.perf_counter() - begun if begun is not None else 0.0
        if self.session is not None and not self.lost and observes_experts(self.setup.device, options):
            self.session.publish_experts()  # while the profiler still listens

    def _load(self, path: str) -> Page:
        page = load_page(path) if self.options.pages else drawn_page(self.options.seed + self.rank.rank)
        if page.note:
            self.progress.say(page.note)
        return page

    def _open(self, window: ExitStack) -> None:
        self.progress.stage("recording", len(self.records))
        window.enter_context(profiler_window(enabled=self.options.capture_range))
        if self.session is not None:
            self.session.announce_all()
        if self.cupti is not None:
            window.enter_context(self.cupti.recording())

    def _tried(self, group: Sequence[Queued], run: Callable[[Sequence[Queued]], None]) -> bool:
        """Run a batch; if it fails, note that in its pages' records, and whether the device outlived it."""
        reason = ""
        try:
            run(group)
        except Exception as error:  # noqa: BLE001 - whatever a batch dies of, the next one is tried
            reason = one_line(error)
        if not reason:
            return True
        # The error is gone by now, and with it the frames that held the batch's memory.
        for queued in group:
            queued.record.fail(reason)
            self._say_failed(queued.record)
        self.lost = self._lost()
        return False

    def _lost(self) -> str:
        """Return why the device cannot be used any more; empty where it can."""
        try:
            wait_for(self.setup.device)
            if self.setup.device.type == "cuda":
                torch.cuda.empty_cache()
        except Exception as error:  # noqa: BLE001 - whatever it says, the device does not answer
            return one_line(error)
        return ""

    def _say_failed(self, record: PageRecord) -> None:
        self.progress.say(record.complaint)

    def _ready(self, group: Sequence[Queued]) -> Workload:
        batch = batch_of(self.options, self.setup, [queued.page for queued in group])
        return made_ready(self.options, self.setup, self.model, batch)

    def _warm_up(self, group: Sequence[Queued]) -> None:
        work = self._ready(group)
        decoding = warm_up_decoding(work.decoding)
        # Muted hooks price what they see, so that no cost is computed for the first time while time is measured.
        with self.session.muted() if self.session is not None else nullcontext():
            for _ in range(self.options.warmup):
                self.progress.stage("warm-up", 1 + decoding.max_new_tokens)
                run_pages(
                    self.model, work.views.model_inputs(), work.prompt, decoding, Unobserved(), self.progress.step
                )
        self._shapes.add(tuple(work.prompt.shape))
        wait_for(self.setup.device)

    def _record(self, group: Sequence[Queued]) -> None:
        number, self._batches = self._batches, self._batches + 1
        for queued in group:
            queued.record.batch, queued.record.batch_pages = number, len(group)
        work = self._ready(group)
        for queued in group:
            queued.record.prompt_tokens = work.prompt.shape[1]
        self._mark()
        self._clock.begin()
        begun = self.watch.sampler.now() if self.watch is not None else 0
        try:
            images, decoding = work.views.model_inputs(), self._decoding(work)
            found = run_pages(self.model, images, work.prompt, decoding, self._clock, self._note)
            self._clock.finish()
            rows = found.tolist()
        finally:
            for queued in group:
                self._keep_steps(queued.record)
        span = Span(start_ns=begun, end_ns=self.watch.sampler.now()) if self.watch is not None else None
        self._keep(group, rows, span)
        self.progress.step("pages", number)

    def _decoding(self, work: Workload) -> Decoding:
        """Return how a batch is decoded: a graph of a shape not met before needs a rehearsal."""
        shape = tuple(work.prompt.shape)
        known = shape in self._shapes
        self._shapes.add(shape)
        return evolve(decoding_of(self.options, self.setup.config), rehearse=not known)

    def _note(self, stage: str, step: int) -> None:
        if stage == "decode" and step % REPEAT_EVERY == REPEAT_EVERY - 1:
            self._mark()

    def _keep_steps(self, record: PageRecord) -> None:
        clock = self._clock
        record.vision_step, record.prefill_step, record.decode_step = (clock.first.get(stage) for stage in STAGES)
        record.decode_steps = clock.made("decode")

    def _keep(self, group: Sequence[Queued], rows: list[list[int]], span: Span | None) -> None:
        stops = set(decoding_of(self.options, self.setup.config).stop_ids)
        times = [self._clock.ns(stage) for stage in STAGES]
        joules = self._joules(span, len(group)) if span is not None else None
        for queued, row in zip(group, rows, strict=True):
            record = queued.record
            end = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
            record.status, record.decoded_tokens, record.joules = "done", end, joules
            record.vision_ns, record.prefill_ns, record.decode_ns = times
            self.tokens[record.index] = row[: end + 1]

    def _joules(self, span: Span, pages: int) -> float | None:
        """Return a page's share of what its batch drew, where the counter resolves it."""
        assert self.watch is not None  # noqa: S101 - a span is only noted under a watch
        readings = self.watch.sampler.readings
        first = bisect_left(readings, span.start_ns, key=lambda reading: reading.time_ns)
        last = bisect_right(readings, span.end_ns, key=lambda reading: reading.time_ns)
        drawn = stage_energy(
            StageTime(stage="pages", source="run", spans=(span,), tokens=0), readings[max(first - 1, 0) : last + 1]
        )["joules"]
        return drawn / pages if isinstance(drawn, float) else None
