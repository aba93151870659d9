"""One run from beginning to end: build, warm up, record inside the capture window, write the run directory."""

import shlex
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict, evolve, frozen

from dsocr_nvtx import __version__
from dsocr_nvtx.errors import UsageError
from dsocr_nvtx.run.advice import next_command, under_nsys
from dsocr_nvtx.run.calibrate import dilation_of, median_steps, unprofiled_steps
from dsocr_nvtx.run.cupti_capture import CuptiCapture
from dsocr_nvtx.run.directory import MANIFEST, default_directory, note_hashes, write_manifest, write_output
from dsocr_nvtx.run.loop import Unobserved, run_pages
from dsocr_nvtx.run.power import PowerWatch, energy_lines, power_watch
from dsocr_nvtx.run.progress import RunProgress, run_progress
from dsocr_nvtx.run.ranks import launched_rank, rank_on
from dsocr_nvtx.run.static import write_static
from dsocr_nvtx.run.timing import choose_timing, described_devices
from dsocr_nvtx.run.window import (
    attention_choice,
    device_name,
    hooked,
    memory_is_named,
    observes_experts,
    profiler_window,
    session_lines,
    settle,
    versions,
)
from dsocr_nvtx.run.workload import RunOptions, Workload, choose_device, prepare, wait_for, warm_up_decoding
from dsocr_nvtx.schema.files import check_directory, read_table, replacing_directory
from dsocr_nvtx.schema.records import Level, RunManifest, Stage, StaticCheck
from dsocr_nvtx.schema.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from dsocr_nvtx.hooks import HookSession

__all__ = ["RunOptions", "attention_choice", "capture"]


@frozen(kw_only=True)
class _Recorded:
    """What the recorded part left: the new tokens of each page, and the hooks' session unless there were none."""

    tokens: list[list[int]]
    seconds: float
    session: "HookSession | None"
    timing: str
    cupti: CuptiCapture | None


def capture(options: RunOptions) -> Path:
    """Make the run that is asked for and return its directory. Everything a user should know goes to stderr.

    Several pages, and processes that a launcher started as ranks, go through a queue (`dsocr_nvtx.run.many`); pages
    that ``calibrate`` compares with themselves do not, if they are one batch.
    """
    rank = launched_rank()
    is_one_batch = options.calibrate and len(options.pages) == options.batch
    if rank is not None or (len(options.pages) > 1 and not is_one_batch):
        from dsocr_nvtx.run.many import capture_many

        return capture_many(options, rank)
    target = options.out or default_directory()
    check_directory(target, MANIFEST, force=options.force)
    with ExitStack() as stack:
        progress = stack.enter_context(run_progress())
        stack.enter_context(memory_is_named())
        stack.enter_context(attention_choice(cudnn=options.cudnn_sdpa))
        device = choose_device(options)
        unprofiled = _calibrated(options, progress)
        settle(device)
        watch = stack.enter_context(power_watch(device, wanted=options.power))
        work = prepare(options, progress)
        with replacing_directory(target, MANIFEST, force=options.force) as directory:
            recorded = _record(work, options, progress)
            check = _write(directory, options, work, recorded, unprofiled)
            if watch is not None:
                _power(watch, directory, options, work, progress)
            note_hashes(directory)
        _report(target, options, work, recorded, progress)
        if check is not None and not check.holds:
            progress.say(f"hooks and static model differ in {len(check.differences)} places: {check.differences[0]}")
    return target


def _power(watch: PowerWatch, directory: Path, options: RunOptions, work: Workload, progress: RunProgress) -> None:
    """Repeat the stages where no profiler would record it all, write what was sampled, and say what it comes to."""
    if under_nsys() and not options.capture_range:
        progress.say("stages are not repeated for their energy: the report would hold it all; add --capture-range")
    else:
        watch.repeat(work, progress)
    for line in energy_lines(watch.write(directory)):
        progress.say(line)
    if watch.sampler.error is not None:
        progress.say(f"power was sampled in part only: {watch.sampler.error}")


def _warm_up(work: Workload, times: int, progress: RunProgress) -> None:
    """Run the pages without ranges, so that a report without a capture range has none of them either."""
    decoding = warm_up_decoding(work.decoding)
    for _ in range(times):
        progress.stage("warm-up", 1 + decoding.max_new_tokens)
        run_pages(work.model, work.views.model_inputs(), work.prompt, decoding, Unobserved(), progress.step)
    wait_for(work.device)


def _record(work: Workload, options: RunOptions, progress: RunProgress) -> _Recorded:
    images = work.views.model_inputs()
    timing, cupti = choose_timing(options.timing, work.device, progress.say)
    with ExitStack() as stack:
        session = stack.enter_context(hooked(work.model, work.device, options, timing)) if options.hooks else None
        # Muted hooks price what they see, so that no cost is computed for the first time while time is measured.
        with session.muted() if session is not None else nullcontext():
            _warm_up(work, options.warmup, progress)
        progress.stage("recording", 1 + work.decoding.max_new_tokens)
        stack.enter_context(profiler_window(enabled=options.capture_range))
        if session is not None:
            session.announce_all()
        recording = stack.enter_context(ExitStack())
        if cupti is not None:
            recording.enter_context(cupti.recording())
        started = time.perf_counter()
        tokens = run_pages(work.model, images, work.prompt, work.decoding, session or Unobserved(), progress.step)
        # The only wait: the events need it, and the window must not close on running kernels.
        wait_for(work.device)
        seconds = time.perf_counter() - started
        recording.close()
        if session is not None and observes_experts(work.device, options):
            session.publish_experts()  # while the profiler still listens
    return _Recorded(tokens=tokens.tolist(), seconds=seconds, session=session, timing=timing, cupti=cupti)


def _calibrated(options: RunOptions, progress: RunProgress) -> dict[str, int]:
    """Return the median step of each stage without any tool, where asked for."""
    if not options.calibrate:
        return {}
    if not options.hooks:
        raise UsageError("--calibrate compares the hooked stages: it does not go with --no-hooks")
    progress.say("the same run without any tool")
    return unprofiled_steps(options)


def _write(
    directory: Path, options: RunOptions, work: Workload, recorded: _Recorded, unprofiled: dict[str, int]
) -> StaticCheck | None:
    check, dilation = None, dict[str, dict[str, float]]()
    if recorded.session is not None:
        recorded.session.write(directory)
        if unprofiled:
            dilation = dilation_of(median_steps(read_table(directory / "ranges.arrow")), unprofiled)
        stats, steps = recorded.session.stats, len(recorded.tokens[0]) - 1
        check = write_static(directory, work, options.mode, Level(options.level), stats, steps)
    if recorded.cupti is not None:
        recorded.cupti.write(directory, described_devices())
    write_output(directory, recorded.tokens, work.texts(recorded.tokens))
    write_manifest(directory, evolve(_manifest(options, work, recorded), static_check=check, dilation=dilation))
    return check


def _manifest(options: RunOptions, work: Workload, recorded: _Recorded) -> RunManifest:
    manifest = RunManifest(
        schema_version=SCHEMA_VERSION,
        package_version=__version__,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        device=device_name(work.device),
        dtype=str(work.dtype).removeprefix("torch."),
        level=options.level,
        mode=options.mode,
        tiles=tuple(f"{columns}x{rows}" for columns, rows in work.views.grids),
        batch=work.views.batch,
        attention=options.attention,
        experts=options.experts,
        decode=options.decode,
        cudnn_sdpa=options.cudnn_sdpa,
        timing=recorded.timing,
        timing_note=recorded.cupti.note if recorded.cupti is not None else "",
        pages=work.names,
        prompt_tokens=work.prompt.shape[1],
        decode_tokens=len(recorded.tokens[0]) - 1,
        model=str(options.checkpoint or f"{options.config} configuration, random weights, seed {options.seed}"),
        versions=versions(),
        ranges=0,
        **asdict(rank_on(work.device, None)),
    )
    if recorded.session is None:
        return manifest
    stats, errors = recorded.session.stats, tuple(recorded.session.errors)
    return evolve(manifest, ranges=stats.ranges, hook_errors=errors, experts_observed=len(stats.experts))


def _report(target: Path, options: RunOptions, work: Workload, recorded: _Recorded, progress: RunProgress) -> None:
    steps = len(recorded.tokens[0]) - 1
    progress.say(f"{work.prompt.shape[1]} prompt tokens, {steps} decode steps, {recorded.seconds:.2f} s of wall time")
    experts = recorded.session.stats.experts if recorded.session is not None else ()
    decode = [call for call in experts if call.stage is Stage.DECODE]
    if decode:
        hit, expected = (sum(getattr(c, n) for c in decode) / len(decode) for n in ("distinct", "expected_experts"))
        progress.say(
            f"experts hit per layer and decode step: {hit:.1f} on average, {expected:.1f} if routing is uniform"
        )
    if recorded.session is not None:
        for line in session_lines(recorded.session):
            progress.say(line)
    if recorded.cupti is not None and recorded.cupti.note:
        progress.say(recorded.cupti.note)
    progress.say(f"run directory: {target}")
    if work.device.type == "cpu":
        progress.say("next, on a machine with an NVIDIA GPU: nsys profile -o report python -m dsocr_nvtx.run")
        return
    if recorded.cupti is not None and recorded.session is not None:
        progress.say(f"next: dsocr-nvtx join {shlex.quote(str(target))}")
        return
    command = next_command(target, options.command, capture_range=options.capture_range, profiled=under_nsys())
    progress.say(f"next: {command}")
