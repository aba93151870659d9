"""What a run was asked to do, and everything it needs for that, made ready on its device: model, images and prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import nn

from dsocr_nvtx.analytic.page import Grid, views
from dsocr_nvtx.errors import Unavailable, UsageError
from dsocr_nvtx.run.checkpoint import checkpoint_config, load_checkpoint
from dsocr_nvtx.run.loop import Decoding, stop_ids_of
from dsocr_nvtx.run.model import base_side, random_model, tiny_config, true_config
from dsocr_nvtx.run.pages import Page, drawn_page, load_page
from dsocr_nvtx.run.progress import RunProgress
from dsocr_nvtx.run.prompt import TextTokenizer, load_tokenizer, prompt_ids, text_ids
from dsocr_nvtx.run.ranks import local_device
from dsocr_nvtx.run.views import PageViews, page_views


@frozen(kw_only=True)
class RunOptions:
    """A run as asked for; None stands for a default that depends on the machine or on the other options."""

    pages: tuple[str, ...] = ()
    mode: str = "gundam"
    tiles: Grid | None = None
    batch: int | None = None
    max_new_tokens: int = 32
    ignore_eos: bool | None = None
    checkpoint: Path | None = None
    config: str = "true"
    seed: int = 0
    prompt: str | None = None
    device: str | None = None
    dtype: str | None = None
    attention: str = "sdpa"
    experts: str = "auto"
    decode: str = "eager"
    cudnn_sdpa: bool = True
    level: str = "op"
    events: bool = False
    timing: str = "none"
    calibrate: bool = False
    observe_experts: bool | None = None
    hooks: bool = True
    warmup: int = 1
    capture_range: bool = False
    power: bool = False
    out: Path | None = None
    force: bool = False
    command: tuple[str, ...] = ()


@frozen(kw_only=True)
class Workload:
    """A run made ready: tensors lie on the device, nothing is left to read."""

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    names: tuple[str, ...]
    views: PageViews
    prompt: torch.Tensor
    decoding: Decoding
    tokenizer: TextTokenizer | None = field(default=None)

    def texts(self, tokens: list[list[int]]) -> list[str] | None:
        """Return what the model wrote, or None without a tokenizer."""
        if self.tokenizer is None:
            return None
        return [self.tokenizer.decode(row, skip_special_tokens=False) for row in tokens]


@frozen(kw_only=True)
class Setup:
    """What a run is made on and with, before there is a model: looked at first, so that refusals come early."""

    device: torch.device
    dtype: torch.dtype
    config: Any
    tokenizer: TextTokenizer | None


@frozen(kw_only=True)
class Batch:
    """Pages that run together, on the CPU: their names, their views, and the prompt of each."""

    names: tuple[str, ...]
    views: PageViews
    prompt: torch.Tensor


def prepare(options: RunOptions, progress: RunProgress) -> Workload:
    """Return the workload of a run. Everything that can be refused is looked at before the model is built."""
    setup = set_up(options)
    pages = _pages(options)
    for note in filter(None, (page.note for page in pages)):
        progress.say(note)
    batch = batch_of(options, setup, pages, (options.batch or 1) if len(pages) == 1 else 1)
    grid, tokens = _grid_text(batch.views), batch.prompt.shape[1]
    progress.say(f"{_pages_text(batch.names)}: {options.mode}, {grid}, {tokens} prompt tokens")
    return made_ready(options, setup, build_model(options, setup, progress), batch)


def set_up(options: RunOptions) -> Setup:
    """Return device, element type, configuration and tokenizer of a run."""
    device = choose_device(options)
    return Setup(
        device=device,
        dtype=choose_dtype(options, device),
        config=_config(options),
        tokenizer=load_tokenizer(options.checkpoint) if options.checkpoint else None,
    )


def check_requests(options: RunOptions, setup: Setup) -> None:
    """Refuse a prompt or a grid that no page could have: the pages of a queue are met one by one."""
    text_ids(setup.config, setup.tokenizer, options.prompt)
    if options.tiles is not None:
        views(options.mode, options.tiles)


def batch_of(options: RunOptions, setup: Setup, pages: Sequence[Page], copies: int = 1) -> Batch:
    """Return the batch of pages, ``copies`` times over; pages of one batch have equally many image tokens."""
    side = base_side(setup.config)
    views = page_views([page.image for page in pages], options.mode, options.tiles, side).repeated(copies)
    prompt = prompt_ids(views.image_tokens(), setup.config, setup.tokenizer, options.prompt)
    return Batch(names=tuple(page.name for page in pages) * copies, views=views, prompt=prompt)


def made_ready(options: RunOptions, setup: Setup, model: nn.Module, batch: Batch) -> Workload:
    """Return a batch made ready on the model's device."""
    return Workload(
        model=model,
        device=setup.device,
        dtype=setup.dtype,
        names=batch.names,
        views=batch.views.to(setup.device, setup.dtype),
        prompt=batch.prompt.to(setup.device),
        decoding=decoding_of(options, setup.config),
        tokenizer=setup.tokenizer,
    )


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose_device(options: RunOptions) -> torch.device:
    """Return the device of a run: the one asked for, else the rank's own or the first GPU; the CPU only when asked."""
    if options.device is None and not torch.cuda.is_available():
        raise Unavailable("no CUDA device here; add --device cpu --config tiny to run the small network on the CPU")
    try:
        device = torch.device(options.device or local_device() or "cuda:0")
    except RuntimeError as error:
        raise UsageError(f"--device is cpu or cuda:N, not {options.device!r}") from error
    if device.type == "cuda":
        return _cuda_device(device)
    if device.type != "cpu":
        raise UsageError(f"--device is cpu or cuda:N, not {options.device!r}")
    if options.decode == "graph":
        raise UsageError("--decode graph replays CUDA graphs: it does not go with --device cpu")
    if options.capture_range:
        raise UsageError("--capture-range brackets GPU work: it does not go with --device cpu")
    return device


def _cuda_device(device: torch.device) -> torch.device:
    index = device.index or 0
    if index >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices here"
        raise Unavailable(f"cuda:{index}: {found}; choose another --device, or --device cpu --config tiny")
    return torch.device("cuda", index)


def choose_dtype(options: RunOptions, device: torch.device) -> torch.dtype:
    """Return the element type of a run: bfloat16, as the checkpoint has it, or float32 where a CPU computes."""
    name = options.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"no element type {name!r}")
    return dtype


def _config(options: RunOptions) -> Any:
    if options.checkpoint is not None:
        if options.config != "true":
            raise UsageError("--config is for random weights: a checkpoint has its own")
        return checkpoint_config(options.checkpoint)
    return tiny_config() if options.config == "tiny" else true_config()


def _pages(options: RunOptions) -> tuple[Page, ...]:
    count = len(options.pages)
    if options.batch is not None and count > 1 and options.batch != count:
        raise UsageError(f"--batch {options.batch} with {count} pages: it repeats a single page")
    return tuple(load_page(source) for source in options.pages) or (drawn_page(options.seed),)


def _pages_text(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _grid_text(views: PageViews) -> str:
    columns, rows = views.grids[0]
    return f"{columns}x{rows} tiles" if views.num_local_patches[0] else "no tiles"


def decoding_of(options: RunOptions, config: Any) -> Decoding:
    """Return how a run decodes."""
    # Random weights never end a text on purpose, so by default only a checkpoint's EOS counts.
    ignore = options.ignore_eos if options.ignore_eos is not None else options.checkpoint is None
    return Decoding(
        max_new_tokens=options.max_new_tokens,
        stop_ids=() if ignore else stop_ids_of(config),
        switch_experts=options.experts == "auto",
        mode=options.decode,
        rehearse=options.warmup == 0,
    )


def build_model(options: RunOptions, setup: Setup, progress: RunProgress) -> nn.Module:
    """Return the model of a run on its device, with a checkpoint's weights or random ones."""
    device, dtype = setup.device, setup.dtype
    experts = "grouped_mm" if options.experts == "auto" else options.experts
    if options.checkpoint is not None:
        progress.say(f"loading {options.checkpoint} to {device}")
        return load_checkpoint(options.checkpoint, device, dtype, options.attention, experts)
    progress.say(f"building the {options.config} network with random weights on {device}")
    if device.type == "cpu" and options.config == "true":
        progress.say("full size on a CPU takes minutes and 14 GB of memory; --config tiny is quick")
    return random_model(setup.config, device, dtype, options.seed, options.attention, experts)


def warm_up_decoding(decoding: Decoding) -> Decoding:
    """Return the decoding of a warm-up: enough steps to have met every kernel once, and no waiting for an end."""
    room = max(decoding.room, decoding.max_new_tokens)
    return evolve(decoding, max_new_tokens=min(4, room), stop_ids=(), rehearse=True, room=room)
