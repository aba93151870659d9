"""What stands around the recorded part of a run: device settings, hooks, the profiler's window, and where it ran."""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from torch import nn

from dsocr_nvtx.errors import Unavailable
from dsocr_nvtx.run.advice import under_nsys
from dsocr_nvtx.run.workload import RunOptions

if TYPE_CHECKING:
    from dsocr_nvtx.hooks import HookSession


@contextmanager
def attention_choice(*, cudnn: bool) -> Iterator[None]:
    """Let fused attention choose cuDNN, or not, inside the block: it makes a plan for every new length of the cache."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(before and cudnn)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def settle(device: torch.device) -> None:
    """Make a GPU the current one, and leave the host to launching."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # The host only launches; idle worker threads would be sampled by the profiler and fill its report.
        torch.set_num_threads(1)


def hooked(
    model: nn.Module, device: torch.device, options: RunOptions, timing: str
) -> "AbstractContextManager[HookSession]":
    """Return the hooks of a run."""
    # Imported here so that --no-hooks runs where nvtx is not installed.
    from dsocr_nvtx.hooks import hook

    observe = observes_experts(device, options)
    every = options.events or timing == "events"
    # Steps are timed where nothing else times the device, and where they are held to an unprofiled run's.
    steps = options.calibrate or (timing == "none" and not under_nsys())
    events = "ranges" if every else "steps" if steps else "none"
    return hook(model, level=options.level, events=events, record=True, observe_experts=observe)


def session_lines(session: "HookSession") -> list[str]:
    """Return what a run says of its hooks at the end: what was checked, what contradicts, what went wrong."""
    lines = [f"hooks {session.checks.summary}"]
    if session.errors:
        lines.append(f"{len(session.errors)} errors inside hooks, so costs or ranges are missing: {session.errors[0]}")
    return lines


def observes_experts(device: torch.device, options: RunOptions) -> bool:
    """Say whether a run counts the experts that are hit: where nothing is said, on a GPU."""
    return options.observe_experts if options.observe_experts is not None else device.type == "cuda"


@contextmanager
def profiler_window(*, enabled: bool) -> Iterator[None]:
    """Bracket the block with the CUDA profiler's start and stop, which ``--capture-range=cudaProfilerApi`` obeys."""
    if not enabled:
        yield
        return
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


@contextmanager
def memory_is_named() -> Iterator[None]:
    """Turn a GPU without memory into one line that says what to do."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        line = str(error).split("\n", 1)[0]
        raise Unavailable(f"{line} Take a smaller --batch or --mode, or another --device") from error


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def versions() -> dict[str, str]:
    """Return the versions of what a run depends on."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in ("torch", "transformers", "nvtx", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
