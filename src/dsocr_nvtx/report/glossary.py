"""What words and headings mean: the one source of tooltips, of the page's glossary, and of `guide glossary`.

What a column of our tables is, its schema says; only words that are no column are explained here.
"""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from dsocr_nvtx.schema.fleet import FLEET_RANKS
from dsocr_nvtx.schema.gauges import ENERGY, LADDER
from dsocr_nvtx.schema.served_tables import REQUESTS, SERVED_STEPS
from dsocr_nvtx.schema.summaries import API_CALLS, HOST_CALLS, KERNELS_SUMMARY
from dsocr_nvtx.schema.tables import EXPERTS, KERNELS, MEASURED, ROOFLINE, STAGES

TERMS: Mapping[str, str] = {
    "stage": "what the network is doing: vision (a page becomes tokens), prefill (the prompt is read) or decode (one "
    "token a step); mixed is prefill and decode in one forward of a serving engine, host its work between forwards",
    "step": "one forward of a stage: of decode one new token for each sequence",
    "wall": "all of a GPU's time that belongs to a row or stage: busy + idle",
    "busy": "time in which GPU operations run; where several run at once, each instant is that of the first to start",
    "idle": "time in which the GPU does nothing. It belongs to the hooked call that was open on the thread which "
    "launched next, and its cause is what that thread did meanwhile; where none was open there, to the host range of "
    "any thread or process that was open then and began last, with cause host",
    "roof": "a rate that the GPU cannot exceed: matrix or vector FLOP/s, bytes/s of DRAM or of the L2 cache. Measured "
    "by dsocr-nvtx ceilings, else the datasheet's dense figure",
    "roofline": "the least time of the work: call by call the longest of FLOPs / compute roof and bytes / memory roof",
    "lost": "wall - roofline: what a perfect implementation would save",
    "roof/busy": "roofline / busy time: 100% is as fast as the roofs allow while the GPU works; waiting does not count",
    "TFLOP/s busy": "matrix FLOPs / busy time, in 10^12 a second",
    "GB/s busy": "bytes that have to be moved at least / busy time, in 10^9 a second",
    "MFU wall": "matrix FLOPs / (wall time x the datasheet's dense peak of the element type): waiting counts",
    "MBU wall": "(weight bytes + KV cache bytes) / (wall time x the datasheet's memory bandwidth): waiting counts",
    "FLOP/B": "intensity: FLOPs / bytes of the lower bound; where it is low, memory is the roof",
    "bound": "what takes the largest part of the wall time. host: the GPU waits for the host; queued: it waits "
    "although its work was launched long before; compute, memory, l2: at least 60% of busy time is that roof's; "
    "unfused: tax kernels; small: kernels that are short or smaller than one wave; inefficient: other kernels far "
    "below the roofs",
    "tax": "tax kernels, also called fusible: copies, casts, gathers and pointwise operations that a fused kernel "
    "would do in passing",
    "inefficiency": "busy time beyond the roofline time in kernels that do the work",
    "rest": "a container's own work: what a layer or the model does between the calls inside it, such as residual adds",
    "wave": "as many thread blocks as the GPU has SMs: a grid of less than one wave leaves SMs without work",
    "stall": "one of the longest idle times of a GPU while a hooked call was open",
    "host work": "what the host of a serving engine does besides the model: ranges host.preprocessing, host.scheduling "
    "and so on. It has no cost and no roof, only time that the GPU waits for it",
    "page": "one request of a serving engine; its time goes from its arrival to its end. A step that pages share is "
    "each one's own",
    "ladder": "how long a step would take if one loss after another went away; rungs build on each other",
    "speed-up": "the time as measured / the time on that rung",
    "lower bound": "bytes that the work has to move at least: weights, inputs and outputs, KV cache, each once",
    "operator by operator": "bytes that this implementation moves, each operator reading and writing its tensors",
    "dilation": "how many times slower a stage was while it was profiled: part of its idle time is the profiler's",
    "mean, median": "times a step are means over all steps unless median is said; a mean far above the median has a "
    "few very long steps in it",
    "where": "module, layer and kind of a row",
    "calls": "hooked calls of the network's modules",
    "launches": "GPU operations: kernels, copies and fills",
    "of stage's wall": "share of the wall time of all stages",
}
"""Words and headings that are no column, or a column told in more words; in the order in which they are explained."""

HEADINGS: Mapping[str, str] = {
    "part": "what a GPU's time is made of",
    "outside stages": "time in which no hooked call was open",
    "total": "all stages, and what is outside them",
    "of wall": "share of the total wall time",
    "together": "all stalls of the line, in milliseconds",
    "stalls": "how many of them there are",
    "longest": "the longest of them, in milliseconds",
    "in range": "innermost hooked call that was open when the GPU got work again",
    "steps": "steps of the stage in which they were",
    "cause": "the CUDA call that took more than half of the longest, else host code",
    "CUDA calls meanwhile": "what the launching thread called during the longest, the longest calls first",
    "ended by": "the GPU operation that came after it",
    "called from": "who made that call, innermost first",
    "rung": "which losses are thought away",
    "ms a step": "milliseconds a step, the mean over all steps",
    "between": "with the smallest and the largest gaps between kernels that are likely",
    "of the measured time": "this rung's time as a share of the time as measured",
    "weights": "bytes of weights, each read once",
    "activations": "bytes of inputs and outputs, each moved once",
    "KV read": "bytes of keys and values read from the cache",
    "KV written": "bytes of keys and values added to the cache",
    "rate while busy": "lower-bound bytes / busy time",
    "split": "what the lower bound is made of",
    "layer": "index of the layer in its module",
    "hit a call": "distinct experts that a call used, the mean over calls",
    "if uniform": "distinct experts that it would use if tokens chose at random",
    "busiest / mean": "rows of the busiest expert / mean rows of all",
    "rows per expert": "a square an expert, darker for more rows",
    "ms": "milliseconds, plain sum of their durations",
    "of busy": "share of the row's busy time",
    "operations": "GPU operations",
    "class": "what kind of kernel it is, by its name",
    "kernel": "short name: what it computes and on which type",
    "a page": "milliseconds, the mean of all pages",
    "of its time": "share of a page's time from its arrival to its end",
    "in prefill": "sequences of a step that are prefilled, the mean over steps",
    "in decode": "sequences of a step that decode, the mean over steps",
    "most": "sequences of the step that has most",
    "rows": "query rows of a step's sequences, the mean over steps",
    "padding": "rows that a forward is run with and no sequence has, as a share of all rows that it is run with",
}
"""Headings of the page's tables that are neither a column nor a word of `TERMS`."""
_COLUMNS: Mapping[str, tuple[pa.Schema, str]] = {
    "of stage's busy": (KERNELS_SUMMARY, "stage_share"), "total ms": (KERNELS_SUMMARY, "total_ns"),
    "mean µs": (KERNELS_SUMMARY, "mean_ns"), "spread µs": (KERNELS_SUMMARY, "spread_ns"),
    "waves": (KERNELS_SUMMARY, "waves"), "launched in": (KERNELS_SUMMARY, "kinds"),
    **{name: (ENERGY, column) for name, column in (
        ("source", "source"), ("seconds", "seconds"), ("joules", "joules"), ("+-", "uncertainty_j"),
        ("tokens/J", "tokens_per_joule"), ("W", "power_w"), ("SM clock", "sm_clock_mhz"),
        ("held down by", "throttle"), ("verdict", "verdict"),
    )},
}  # fmt: skip
"""Headings that are columns under another name."""
_TABLES: Mapping[str, tuple[pa.Schema, str]] = {
    "stages.arrow": (STAGES, "one row per stage, and process and GPU"),
    "roofline.arrow": (ROOFLINE, "one row per stage, module, kind and layer; rows are disjoint and add up"),
    "kernels_summary.arrow": (KERNELS_SUMMARY, "one row per stage and kernel"),
    "kernels.arrow": (KERNELS, "one row per GPU operation"),
    "ranges.arrow": (MEASURED, "one row per hooked call"),
    "host_calls.arrow": (HOST_CALLS, "one row per stage, step and CUDA function"),
    "api_calls.arrow": (API_CALLS, "one row per CUDA call"),
    "served_steps.arrow": (SERVED_STEPS, "one row per step of a serving engine"),
    "requests.arrow": (REQUESTS, "one row per request of a serving engine"),
    "experts.arrow": (EXPERTS, "one row per call of routed experts, where they were observed"),
    "energy.arrow": (ENERGY, "one row per stage, where power was measured"),
    "ladder -o": (LADDER, "one row per stage and rung"),
    "ranks.arrow of a fleet": (FLEET_RANKS, "one row per rank and stage"),
}
TITLE = "Glossary: what words, headings and columns mean"


def meaning(heading: str) -> str:
    """Return what a heading means; empty where nothing is known of it, as of a stage's name."""
    told = TERMS.get(heading) or HEADINGS.get(heading)
    return told or (_described(*_COLUMNS[heading]) if heading in _COLUMNS else "")


def _described(schema: pa.Schema, column: str) -> str:
    return str(schema.field(column).metadata[b"description"].decode())


def glossary_page() -> str:
    """Return the glossary as Markdown: words, headings, then every column of every table by its schema."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from (f"# {TITLE}", "", "## Words", "")
    yield from (f"- **{word}**: {text}" for word, text in TERMS.items())
    yield from ("", "## Headings of the page", "")
    yield from (f"- **{word}**: {meaning(word)}" for word in (*HEADINGS, *_COLUMNS))
    for name, (schema, rows) in _TABLES.items():
        yield from ("", f"## {name}: {rows}", "", "| column | unit | what it is |", "|---|---|---|")
        for field in schema:
            unit, text = (field.metadata[key].decode() for key in (b"unit", b"description"))
            yield f"| `{field.name}` | {unit} | {text.replace('|', chr(92) + '|')} |"
