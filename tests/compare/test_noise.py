"""Bounds: they hold the true change as often as they claim, and are no narrower for what they should not trust."""

import numpy as np
import pytest

from dsocr_nvtx.compare.noise import Spread, fitted, repeated, typical


def test_equal_differences_have_no_bound() -> None:
    assert (repeated(np.full(20, 7.0)).change, repeated(np.full(20, 7.0)).half) == (7.0, 0.0)


def test_a_few_wild_steps_move_neither_the_change_nor_what_it_is_held_against() -> None:
    values = np.full(40, 100.0)
    values[[0, 7, 20]] = 1e9
    assert repeated(values).change == typical(values) == 100.0


@pytest.mark.parametrize("count", [8, 30, 200])
@pytest.mark.parametrize("kind", ["normal", "heavy", "wandering"])
def test_the_interval_misses_the_truth_rarely(count: int, kind: str) -> None:
    """Stated confidence: 99.8 %. Heavy tails and wandering noise may cost some, at most 2 % misses; seeded."""
    random = np.random.default_rng(5)
    missed = 0
    for _ in range(400):
        noise = random.normal(0, 1, count) if kind != "heavy" else random.standard_t(2, count)
        if kind == "wandering":
            noise = np.convolve(random.normal(0, 1, count + 2), np.ones(3) / 3, "valid")
        bound = repeated(5.0 + noise)
        missed += abs(bound.change - 5.0) > bound.half
    assert missed / 400 <= 0.02


def test_wandering_noise_widens_the_bound_and_alternating_noise_does_not_narrow_it() -> None:
    random = np.random.default_rng(6)
    plain = random.normal(0, 1, 400)
    wandering = np.convolve(random.normal(0, 1, 403), np.ones(4) / 2, "valid")
    assert repeated(wandering).half > 1.5 * repeated(plain).half
    alternating = np.abs(plain) * np.where(np.arange(400) % 2, 1, -1)
    assert repeated(alternating).half >= 0.9 * repeated(random.permutation(alternating)).half


def test_the_spread_grows_with_time_and_launches_and_where_rows_scatter_more() -> None:
    usual = Spread()
    assert float(usual.of(100_000.0, 4.0)) == pytest.approx(np.hypot(400, 260))
    random = np.random.default_rng(7)
    time, launches = np.full(300, 100_000.0), np.full(300, 4.0)
    quiet = random.normal(0, 1, 300) * usual.of(time, launches)
    assert fitted(quiet / 10, time, launches) == usual
    assert fitted(quiet * 3, time, launches).factor == pytest.approx(3, rel=0.2)
    assert fitted(quiet[:3] * 3, time[:3], launches[:3]) == usual
