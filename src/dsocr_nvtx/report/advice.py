"""What would help a stage most: causes by name with what they cost, and what the ladder says to expect."""

from collections.abc import Iterator, Sequence

from dsocr_nvtx.join.stalls import Stall
from dsocr_nvtx.report import words
from dsocr_nvtx.roofline.bounds import IDLE_BOUNDS

_WHOSE = ("pid", "device", "stage")
RUNG_WORDS = {
    "now": "as measured",
    "no_stall": "if the host never stalled",
    "graph": "if launches were free, as in a CUDA graph",
    "fused": "and tax kernels fused away",
    "roof": "at the roof",
}


def advice(stage: words.Record, rungs: Sequence[words.Record], stalls: Sequence[Stall]) -> Iterator[str]:
    """Yield what would help a row of STAGES: a remedy for stalls that we know, the ladder's lines for what binds it.

    Of ``rungs`` (LADDER) those of the stage count, and of ``stalls`` those of its GPU, where the row tells it.
    """
    plans = [stall for stall in stalls if stall.stage == stage["stage"] == "decode" and _is_plan(stall)]
    plans = [stall for stall in plans if stage.get("device") in (None, stall.device)]
    if plans:
        cost = words.milliseconds(sum(stall.ns for stall in plans))
        remedy = "run --no-cudnn-sdpa, or --decode static or graph"
        yield f"cuDNN plans its attention anew for each KV length: {cost} ms in {len(plans)} stalls; {remedy}"
    mine = [rung for rung in rungs if all(rung.get(key, stage.get(key)) == stage.get(key) for key in _WHOSE)]
    steps = {str(rung["rung"]): rung for rung in mine}
    for name in ("no_stall", "graph") if stage["bound"] in (*IDLE_BOUNDS, None) else ("fused",):
        rung = steps.get(name)
        if rung is not None and rung["step_ns"] is not None and rung["speedup"] is not None:
            text = f"{RUNG_WORDS[name]}: {milliseconds_of(rung['step_ns'])} ms a step"
            yield f"{text}, {words.number(rung['speedup']):,.1f}x faster"


def _is_plan(stall: Stall) -> bool:
    """Say whether the operation that ended a stall is of an attention that cuDNN compiles at its first call."""
    name = stall.next_operation or ""
    return "cudnn" in name and "sdpa" in name


def milliseconds_of(ns: object) -> str:
    """Return nanoseconds as milliseconds with a digit more, as the ladder has them."""
    return f"{words.number(ns) / 1e6:,.3f}"
