"""Differences planted in the demo, with noise and drifting clocks, as `reports/diff_check.py` measures them."""

import importlib
from pathlib import Path

import pytest

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.mark.skipif(not REPORTS.is_dir(), reason="the reports are not here")
@pytest.mark.parametrize("what", ["a layer by 5 %", "a stall", "a new kernel"])
def test_what_was_planted_is_named_first_and_nothing_else_is(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPORTS))
    told = importlib.import_module("diff_check").planted_pair(what, 3, 0.015)
    assert (told["right"], told["false causes"]) == (1, 0)
    assert told["causes"] >= 1
