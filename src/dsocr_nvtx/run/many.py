"""A run of many pages: a queue in batches, one record per page, and no page that ends the run.

A launcher's ranks take every n-th page each, and write a run directory of their own: ``OUT/rank-3``.
"""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import torch
from attrs import asdict, evolve
from torch import nn

from dsocr_nvtx import __version__
from dsocr_nvtx.analytic.observed import own_calls
from dsocr_nvtx.analytic.summary import run_summary
from dsocr_nvtx.errors import DsocrError, UsageError
from dsocr_nvtx.run.advice import next_command, under_nsys
from dsocr_nvtx.run.conveyor import Conveyor
from dsocr_nvtx.run.directory import MANIFEST, default_directory, note_hashes, write_manifest, write_output
from dsocr_nvtx.run.page_records import PageRecord, one_line, page_statistics, write_pages
from dsocr_nvtx.run.power import PowerWatch, power_watch
from dsocr_nvtx.run.progress import RunProgress, run_progress
from dsocr_nvtx.run.ranks import rank_on
from dsocr_nvtx.run.timing import described_devices
from dsocr_nvtx.run.window import attention_choice, device_name, memory_is_named, session_lines, settle, versions
from dsocr_nvtx.run.workload import RunOptions, Setup, build_model, check_requests, set_up
from dsocr_nvtx.schema.files import check_directory, replacing_directory, write_json, write_table
from dsocr_nvtx.schema.ranks import Rank, rank_directory
from dsocr_nvtx.schema.records import RunManifest
from dsocr_nvtx.schema.tables import SCHEMA_VERSION


def capture_many(options: RunOptions, launched: Rank | None) -> Path:
    """Make the run and return its directory. Everything a user should know goes to stderr.

    A page that fails costs one line and one failed record. An error that leaves the device unusable ends the run: what
    is recorded by then is written all the same. `DsocrError` at the end where the device was lost or no page is done.
    """
    target = _target(options, launched)
    check_directory(target, MANIFEST, force=options.force)
    records = shard(options, launched)
    with ExitStack() as stack:
        progress = stack.enter_context(run_progress())
        stack.enter_context(attention_choice(cudnn=options.cudnn_sdpa))
        setup = set_up(options)
        check_requests(options, setup)
        settle(setup.device)
        rank = rank_on(setup.device, launched)
        progress.say(f"{_who(launched)}{len(records)} pages: {options.mode}, {options.batch or 1} at a time")
        watch = stack.enter_context(power_watch(setup.device, wanted=options.power))

        def build() -> nn.Module:
            with memory_is_named():
                return build_model(options, setup, progress)

        with replacing_directory(target, MANIFEST, force=options.force) as directory:
            conveyor = Conveyor(options, setup, rank, records, progress, watch)
            conveyor.run(build)
            _write(directory, options, setup, conveyor, watch)
            note_hashes(directory)
        _report(target, options, conveyor, progress)
    _judge(target, conveyor)
    return target


def _target(options: RunOptions, launched: Rank | None) -> Path:
    if options.calibrate:
        raise UsageError("--calibrate compares one batch with itself: let --batch be the number of pages; no ranks")
    if launched is None:
        return options.out or default_directory()
    if options.out is None:
        raise UsageError("ranks need --out DIRECTORY: each writes DIRECTORY/rank-N")
    return rank_directory(options.out, launched.rank)


def shard(options: RunOptions, rank: Rank | None) -> list[PageRecord]:
    """Return the records of this rank's pages: every n-th, from its own number on. Without pages, each draws one."""
    first, step = (rank.rank, rank.world_size) if rank is not None else (0, 1)
    if not options.pages:
        return [PageRecord(index=first, path=f"drawn:{options.seed + first}")]
    return [PageRecord(index=at, path=path) for at, path in enumerate(options.pages)][first::step]


def _who(rank: Rank | None) -> str:
    return f"{rank}: " if rank is not None else ""


def _write(directory: Path, options: RunOptions, setup: Setup, conveyor: Conveyor, watch: PowerWatch | None) -> None:
    records, session = conveyor.records, conveyor.session
    write_pages(directory, records, conveyor.rank)
    done = [record for record in records if record.status == "done"]
    if session is not None:
        try:
            session.write(directory)
            calls = own_calls(session.stats.records)
            summary = run_summary(calls, len(done), session.stats.experts)
            write_json(summary, directory / "analytic_hooks" / "summary.json")
        except Exception as error:
            if not conveyor.lost:
                raise
            conveyor.progress.say(f"the hooks' tables went with the device: {one_line(error)}")
    if conveyor.cupti is not None and conveyor.cupti.opened and not conveyor.lost:
        conveyor.cupti.write(directory, described_devices())
    if watch is not None:
        write_table(watch.sampler.table(), directory / "power.arrow")
    ids = [conveyor.tokens.get(record.index) for record in records]
    texts = None
    if setup.tokenizer is not None:
        texts = [setup.tokenizer.decode(row, skip_special_tokens=False) if row is not None else None for row in ids]
    write_output(directory, ids, texts)
    write_manifest(directory, _manifest(options, setup, conveyor, done))


def _manifest(options: RunOptions, setup: Setup, conveyor: Conveyor, done: list[PageRecord]) -> RunManifest:
    session = conveyor.session
    manifest = RunManifest(
        schema_version=SCHEMA_VERSION,
        package_version=__version__,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        device=device_name(setup.device),
        dtype=str(setup.dtype).removeprefix("torch."),
        level=options.level,
        mode=options.mode,
        tiles=tuple(str(record.grid) for record in done),
        batch=max((record.batch_pages or 0 for record in done), default=0),
        attention=options.attention,
        experts=options.experts,
        decode=options.decode,
        cudnn_sdpa=options.cudnn_sdpa,
        timing=conveyor.timing,
        timing_note=conveyor.cupti.note if conveyor.cupti is not None else "",
        pages=tuple(record.path for record in done),
        prompt_tokens=max((record.prompt_tokens or 0 for record in done), default=0),
        decode_tokens=max((record.decode_steps or 0 for record in done), default=0),
        model=str(options.checkpoint or f"{options.config} configuration, random weights, seed {options.seed}"),
        versions=versions(),
        ranges=0,
        page_statistics=page_statistics(conveyor.records, conveyor.seconds),
        **asdict(conveyor.rank),
    )
    if session is None:
        return manifest
    stats, errors = session.stats, tuple(session.errors)
    return evolve(manifest, ranges=stats.ranges, hook_errors=errors, experts_observed=len(stats.experts))


def _report(target: Path, options: RunOptions, conveyor: Conveyor, progress: RunProgress) -> None:
    found = page_statistics(conveyor.records, conveyor.seconds)
    progress.say(
        f"{found['pages']} pages done, {found['failed']} failed, {found['not_run']} not run; "
        f"{found['decoded_tokens']} tokens decoded, {conveyor.seconds:.2f} s"
    )
    for group, name, what in (("per_page", "page_ns", "a page"), ("per_token", "decode_ns", "a token")):
        spread = cast("dict[str, dict[str, float] | None]", found[group])[name]
        if spread is not None:
            times = ", ".join(f"{key} {spread[key] / 1e6:,.2f}" for key in ("p50", "p90", "p99", "max"))
            progress.say(f"{what}, in ms: {times}")
    for line in session_lines(conveyor.session) if conveyor.session is not None else ():
        progress.say(line)
    if conveyor.cupti is not None and conveyor.cupti.note:
        progress.say(conveyor.cupti.note)
    progress.say(f"run directory: {target}")
    if conveyor.rank.world_size == 1 and torch.cuda.is_available():
        words, range_ = options.command, options.capture_range
        progress.say(f"next: {next_command(target, words, capture_range=range_, profiled=under_nsys())}")


def _judge(target: Path, conveyor: Conveyor) -> None:
    if conveyor.lost:
        raise DsocrError(f"the device cannot be used any more ({conveyor.lost}); what was recorded is in {target}")
    if not any(record.status == "done" for record in conveyor.records) and conveyor.records:
        first = conveyor.records[0].error
        raise DsocrError(f"none of {len(conveyor.records)} pages could be run, the first because: {first}")
