"""Numbers and verdicts in words, by hand."""

import pytest

from dsocr_nvtx.report import words
from dsocr_nvtx.roofline.bounds import BOUNDS


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.00"), (4_999, "0.00"), (5_001, "0.01"), (1_234_567, "1.23"), (1_234_567_890_123, "1,234,567.89"),
        (-50_000, "-0.05"),
    ],
)  # fmt: skip
def test_milliseconds(ns: int, text: str) -> None:
    assert words.milliseconds(ns) == text


def test_what_is_not_known_is_a_dash_and_zero_is_zero() -> None:
    assert (words.percent(None), words.decimal(None), words.bound(None)) == ("-", "-", "-")
    assert (words.percent(0), words.decimal(0.0, 0)) == ("0.0%", "0")
    assert (words.percent(0.1234), words.percent(2), words.decimal(12345.678)) == ("12.3%", "200.0%", "12,345.7")


@pytest.mark.parametrize("value", [None, "1", b"1", [1]])
def test_text_is_no_number(value: object) -> None:
    with pytest.raises(TypeError, match="not a number"):
        words.milliseconds(value)


def test_a_place() -> None:
    assert words.place({"module": "decoder", "layer": 3, "kind": "experts"}) == "decoder.3 experts"
    assert words.place({"module": "decoder", "layer": 0, "kind": "mlp"}) == "decoder.0 mlp"
    assert words.place({"module": "lm_head", "layer": None, "kind": "lm_head"}) == "lm_head lm_head"


STAGE = {
    "stage": "decode", "bound": "host", "wall_ns": 10_000_000, "busy_owned_ns": 2_000_000, "idle_owned_ns": 8_000_000,
    "idle_host_ns": 3_000_000, "idle_launch_ns": 4_000_000, "idle_sync_ns": 1_000_000, "idle_memory_ns": 0,
    "idle_queued_ns": 0, "small_ns": 300_000,
    "roofline_ns": 500_000, "efficiency": 0.25, "steps": 4, "tax_ns": 600_000,
}  # fmt: skip


def test_a_verdict_by_hand() -> None:
    # 8 of 10 ms idle, 4 of them in launch calls; 10 ms / 4 steps; 10 / 0.5.
    assert words.verdict(STAGE) == (
        "decode is waiting for the host: idle 80% of the time, mostly in launch calls; "
        "2.50 ms a step (mean), 20x its roofline time"
    )


def test_mean_and_median_are_told_where_there_are_several_steps() -> None:
    assert "2.50 ms a step (mean; median 1.00), " in words.verdict({**STAGE, "median_step_ns": 1_000_000})
    assert "10.00 ms a step, " in words.verdict({**STAGE, "steps": 1, "median_step_ns": 10_000_000})


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        ("compute", "decode is compute-bound: 20% busy, at 25.0% of the compute roof; "),
        ("memory", "decode is memory-bound: 20% busy, at 25.0% of the memory roof; "),
        ("l2", "decode is bound by the L2 cache: 20% busy, at 25.0% of the L2's roof; "),
        ("inefficient", "decode is losing most in inefficient kernels: 20% busy, at 25.0% of the roof; "),
        ("unfused", "decode is losing most to what is not fused: 20% busy, at 25.0% of the roof, "
         "30% of busy time in tax kernels; "),
        ("small", "decode is losing most in kernels too small for the GPU: 20% busy, at 25.0% of the roof, "
         "15% of busy time in short kernels or less than a wave; "),
        ("queued", "decode is waiting with its work queued: idle 80% of the time, mostly in gaps between operations "
         "that were launched long before; "),
    ],
)  # fmt: skip
def test_every_bound_has_its_sentence(bound: str, text: str) -> None:
    assert bound in BOUNDS
    assert words.verdict({**STAGE, "bound": bound}).startswith(text)


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ("host", "host code between launches"),
        ("launch", "launch calls"),
        ("sync", "synchronising calls"),
        ("memory", "allocations and copies"),
    ],
)
def test_the_cause_that_idles_most_is_named(cause: str, text: str) -> None:
    causes = dict.fromkeys(["idle_host_ns", "idle_launch_ns", "idle_sync_ns", "idle_memory_ns", "idle_queued_ns"], 1)
    assert f"mostly in {text};" in words.verdict({**STAGE, **causes, f"idle_{cause}_ns": 2})


def test_a_stage_without_device_time_or_roof_says_so() -> None:
    nothing = {**STAGE, "wall_ns": 0, "busy_owned_ns": 0, "idle_owned_ns": 0, "bound": None, "efficiency": None}
    assert words.verdict(nothing) == "decode: no device time"
    assert "its roofline time is not known" in words.verdict({**STAGE, "roofline_ns": 0, "efficiency": 0.0})
