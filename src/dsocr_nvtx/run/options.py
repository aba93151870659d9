"""The command line of `dsocr-nvtx run` = `python -m dsocr_nvtx.run`. Imports nothing slow: help is instant."""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dsocr_nvtx.errors import Partial, Unavailable, UsageError
from dsocr_nvtx.schema.records import Level


class Mode(StrEnum):
    """Image sizes of the vendor's modes: 512, 640, 1024, 1280, and 1024 with tiles of 640."""

    TINY = "tiny"
    SMALL = "small"
    BASE = "base"
    LARGE = "large"
    GUNDAM = "gundam"


class ConfigName(StrEnum):
    """Dimensions of a network with random weights."""

    TRUE = "true"
    TINY = "tiny"


class DtypeName(StrEnum):
    """Element types of weights and activations."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Attention(StrEnum):
    """Attention implementations that the whole network supports."""

    SDPA = "sdpa"
    EAGER = "eager"


class Decode(StrEnum):
    """Ways to decode: a cache that grows, or one of fixed size; with that, a compiled step or one CUDA graph of it."""

    EAGER = "eager"
    STATIC = "static"
    COMPILED = "compiled"
    GRAPH = "graph"


class Timing(StrEnum):
    """Where device times come from besides a profiler: CUPTI, CUDA events around every range, or nowhere."""

    AUTO = "auto"
    CUPTI = "cupti"
    EVENTS = "events"
    NONE = "none"


class Experts(StrEnum):
    """Implementations of the routed experts; `auto` is what transformers' generate uses."""

    AUTO = "auto"
    EAGER = "eager"
    GROUPED_MM = "grouped_mm"
    BATCHED_MM = "batched_mm"


class Engine(StrEnum):
    """What runs the model: this package's own loop over transformers' network, or vLLM."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


def parse_tiles(text: str | None) -> tuple[int, int] | None:
    """Return (columns, rows) of a text like ``2x3``."""
    if text is None:
        return None
    columns, mark, rows = text.lower().partition("x")
    if not (mark and columns.isdecimal() and rows.isdecimal() and int(columns) and int(rows)):
        raise UsageError(f"--tiles is COLUMNSxROWS, such as 2x3, not {text!r}")
    return int(columns), int(rows)


def run_command(
    pages: Annotated[
        list[str] | None,
        typer.Argument(help="PNG, JPEG or PDF files; FILE.pdf#3 is page 3.", show_default="a page drawn here"),
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="Image size: 512, 640, 1024, 1280, or 1024 with tiles of 640.")
    ] = Mode.GUNDAM,
    tiles: Annotated[
        str | None,
        typer.Option(metavar="CxR", help="Force gundam's grid, columns x rows.", show_default="by the page's shape"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Copies of a single page; of several, how many pages at once.", show_default="1"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="As generate counts: the prefill makes the first.")] = 32,
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--stop-at-eos", help="Never stop early.", show_default="stop with a checkpoint only"
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder of a DeepSeek-OCR checkpoint, safetensors.", show_default="random weights"),
    ] = None,
    config: Annotated[
        ConfigName, typer.Option(help="Dimensions of the network with random weights.")
    ] = ConfigName.TRUE,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights and the drawn page.")] = 0,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text after the image; needs a checkpoint's tokenizer.", show_default="convert to markdown"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N.", show_default="cuda:0")] = None,
    dtype: Annotated[DtypeName | None, typer.Option(show_default="bfloat16; float32 on a CPU")] = None,
    attention: Annotated[Attention, typer.Option()] = Attention.SDPA,
    experts: Annotated[
        Experts, typer.Option(help="auto: grouped_mm, and on a GPU batched_mm to decode.")
    ] = Experts.AUTO,
    decode: Annotated[
        Decode,
        typer.Option(help="A growing cache, a static one, with it torch.compile as in generate, or one CUDA graph."),
    ] = Decode.EAGER,
    cudnn_sdpa: Annotated[
        bool,
        typer.Option(
            "--cudnn-sdpa/--no-cudnn-sdpa",
            help="Let attention use cuDNN, which plans for every KV length and may vary in the last bits.",
        ),
    ] = True,
    level: Annotated[
        Level, typer.Option(help="Finest ranges: one per step, per layer, or per operation in it.")
    ] = Level.OP,
    events: Annotated[bool, typer.Option("--events", help="CUDA events around every range.")] = False,
    timing: Annotated[
        Timing, typer.Option(help="cupti records GPU work without nsys; auto: cupti, unless nsys is there.")
    ] = Timing.NONE,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First make the same run without any tool, to know what watching costs.")
    ] = False,
    observe_experts: Annotated[
        bool | None,
        typer.Option(
            "--observe-experts/--expect-experts",
            help="Count the experts that were really hit.",
            show_default="on a GPU, while hooked",
        ),
    ] = None,
    hooks: Annotated[bool, typer.Option("--hooks/--no-hooks", help="Attach the hooks.")] = True,
    warmup: Annotated[int, typer.Option(min=0, help="Times the pages are run first, unhooked and unrecorded.")] = 1,
    capture_range: Annotated[
        bool, typer.Option("--capture-range", help="cudaProfilerStart and Stop around the recorded part.")
    ] = False,
    power: Annotated[
        bool,
        typer.Option("--power", help="Sample power and clocks; then repeat each stage for 2 s to know its energy."),
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="What runs the model. vllm: its offline engine, as it serves.")
    ] = Engine.TRANSFORMERS,
    engine_process: Annotated[
        bool, typer.Option("--engine-process", help="With vllm: the engine in its own process, as `vllm serve` has it.")
    ] = False,
    engine_options: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='With vllm: arguments of its LLM, such as {"enforce_eager": true}.'),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory.", show_default="runs/TIME")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older run in --out.")] = False,
) -> None:
    """Run DeepSeek-OCR on page images with every layer hooked, and write a run directory.

    Without options: the full-size network with random weights on the first GPU, one drawn page, 32 new tokens.
    Put `nsys profile` in front of it for a timed report. Of several pages each gets a record in pages.arrow, and one
    that fails costs no other: exit code 1, with a line on stderr; 3 if none could be run. `torchrun --nproc-per-node N
    -m dsocr_nvtx.run` shares them out over ranks, each with a run directory of its own, OUT/rank-N; there the exit
    code is 0 where some failed, since torchrun would end the other ranks.
    """
    grid = parse_tiles(tiles)
    if engine is Engine.VLLM:
        elsewhere = {
            "--mode": mode is not Mode.GUNDAM, "--tiles": tiles, "--device": device, "--events": events,
            "--attention": attention is not Attention.SDPA, "--experts": experts is not Experts.AUTO,
            "--decode": decode is not Decode.EAGER, "--timing": timing is not Timing.NONE, "--calibrate": calibrate,
            "--observe-experts": observe_experts, "--capture-range": capture_range, "--power": power,
        }  # fmt: skip
        given = [name for name, value in elsewhere.items() if value]
        if given:
            raise UsageError(f"{', '.join(given)}: not with --engine vllm, which has its own ways")
        _run_served(
            pages=tuple(pages or ()), copies=batch or 1, max_new_tokens=max_new_tokens, ignore_eos=ignore_eos,
            checkpoint=checkpoint, config=config.value, seed=seed, prompt=prompt, dtype=dtype.value if dtype else None,
            level=level.value, hooks=hooks, warmup=warmup, own_process=engine_process,
            engine_options=parse_engine_options(engine_options), out=out, force=force, command=tuple(sys.argv),
        )  # fmt: skip
        return
    if engine_process or engine_options:
        raise UsageError("--engine-process and --engine-options go with --engine vllm")
    if device != "cpu":
        _limit_threads()
    with missing_packages_are_named():
        from dsocr_nvtx.run.capture import RunOptions, capture

    directory = capture(
        RunOptions(
            pages=tuple(pages or ()),
            mode=mode.value,
            tiles=grid,
            batch=batch,
            max_new_tokens=max_new_tokens,
            ignore_eos=ignore_eos,
            checkpoint=checkpoint,
            config=config.value,
            seed=seed,
            prompt=prompt,
            device=device,
            dtype=dtype.value if dtype else None,
            attention=attention.value,
            experts=experts.value,
            decode=decode.value,
            cudnn_sdpa=cudnn_sdpa,
            level=level.value,
            events=events,
            timing=timing.value,
            calibrate=calibrate,
            observe_experts=observe_experts,
            hooks=hooks,
            warmup=warmup,
            capture_range=capture_range,
            power=power,
            out=out,
            force=force,
            command=tuple(sys.argv),
        )
    )
    _say_what_failed(directory)


def _run_served(**options: Any) -> None:
    """Run pages through vLLM, which is looked for before anything else is done."""
    if importlib.util.find_spec("vllm") is None:
        raise Unavailable("--engine vllm needs vLLM, which is not installed; pip install vllm")
    from dsocr_nvtx.run.served import ServedOptions, capture_served

    capture_served(ServedOptions(**options))


def parse_engine_options(text: str | None) -> dict[str, Any]:
    """Return the arguments that a text of JSON gives by name."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f'--engine-options is JSON, such as {{"enforce_eager": true}}, not {text!r}') from error
    if not isinstance(found, dict):
        raise UsageError(f'--engine-options names arguments, as {{"enforce_eager": true}} does, not {text!r}')
    return found


def _say_what_failed(directory: Path) -> None:
    """End with `Partial` where pages of a run without ranks failed, once all that it recorded is written."""
    from dsocr_nvtx.schema.directories import read_manifest

    told: dict[str, Any] = read_manifest(directory)
    pages = told.get("page_statistics") or {}
    if pages.get("failed") and told.get("world_size", 1) == 1:
        every = pages["pages"] + pages["failed"] + pages["not_run"]
        failed = f"{pages['failed']} of {every} pages failed; the others are done"
        raise Partial(f"{failed}; {directory}/pages.arrow says why")


@contextmanager
def missing_packages_are_named() -> Iterator[None]:
    """Turn a missing package into one line that says what to install."""
    try:
        yield
    except ImportError as error:
        # Also an older transformers, which lacks the class.
        raise Unavailable(
            f"a run needs torch and transformers >= 5.20 ({error}); pip install 'dsocr-nvtx[run]'"
        ) from error


def _limit_threads() -> None:
    """Keep the CPU libraries to one thread before they start: a GPU run needs no more, and nsys samples every one."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
