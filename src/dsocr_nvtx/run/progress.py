"""What a run says while it works: a bar on a terminal, plain lines elsewhere, always on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dsocr_nvtx.schema.terminal import Terminal

MIN_GAP_S: Final = 0.5
"""Least time between two drawings. One takes about a millisecond, which the next launch has to wait for."""


@define
class RunProgress:
    """Shows where the run is. It owns no thread: one that redraws would compete with the loop for the interpreter."""

    console: Console
    bar: Progress
    task: TaskID
    drawn_at: float = field(default=0.0)

    def say(self, text: str) -> None:
        """Print one line, above the bar where there is one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, name: str, total: int) -> None:
        """Start something of ``total`` steps."""
        if not self.console.is_terminal:
            self.say(name)
        self.bar.reset(self.task, description=name, total=total)
        self._draw(at_once=True)

    def step(self, stage: str, step: int) -> None:
        """Note that a stage has made step number ``step``; draws only if the last drawing is old enough."""
        self.bar.update(self.task, description=f"{stage} {step}", advance=1)
        self._draw(at_once=False)

    def _draw(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self.console.is_terminal and (at_once or now - self.drawn_at >= MIN_GAP_S):
            self.drawn_at = now
            self.bar.refresh()


@contextmanager
def run_progress() -> Iterator[RunProgress]:
    """Yield the progress of a run; the bar goes when the block ends."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    with bar:
        yield RunProgress(console, bar, bar.add_task("starting", total=None))
