"""`generate` in every mode: stage and KV length of every step, FLOPs as torch counts, KV bytes as the cache holds."""

import pytest

from tests.builders.generate_modes import MODES, Checked, Verdict, check

pytestmark = pytest.mark.usefixtures("recorder")


@pytest.mark.parametrize("mode", MODES)
def test_every_figure_of_every_step_is_right(mode: str) -> None:
    assert check(mode) == Checked(verdict=Verdict.RIGHT)
