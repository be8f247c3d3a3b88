"""Anchors of one space that are shifted against those of another."""

import numpy as np
import pytest

from stitchwork.geometry.diagnostics.row_shifts import RowShift, row_shifts
from stitchwork.resources import Floats

COUNT = 640


def latent_space(seed: int, width: int, count: int = COUNT, *, is_sorted: bool = False) -> Floats:
    """Rows of one latent structure, of its own width and noise; sorted rows are in 40 classes."""
    shared = np.random.default_rng(0)
    latent = shared.normal(size=(count, 12))
    if is_sorted:
        latent += 3 * shared.normal(size=(40, 12))[np.arange(count) * 40 // count]
    own = np.random.default_rng(seed)
    rows = np.tanh(latent @ own.normal(size=(12, width)) / 4)
    return (rows + 0.02 * own.normal(size=rows.shape)).astype(np.float32)


@pytest.fixture(params=[False, True], ids=["unsorted", "sorted"])
def pair(request: pytest.FixtureRequest) -> tuple[Floats, Floats]:
    return (
        latent_space(1, 33, is_sorted=request.param),
        latent_space(2, 34, is_sorted=request.param),
    )


@pytest.mark.parametrize("shift", [-3, -2, -1, 1, 2, 3])
@pytest.mark.parametrize("count", [26, 100, COUNT])
def test_rows_that_are_all_shifted_are_one_run(
    pair: tuple[Floats, Floats], shift: int, count: int
) -> None:
    x, y = (rows[:count] for rows in pair)
    assert row_shifts(x, np.roll(y, shift, axis=0)) == [RowShift(0, count - 1, shift)]


def test_row_lost_in_the_middle_shifts_all_rows_after_it(pair: tuple[Floats, Floats]) -> None:
    x, y = pair
    lost = np.concatenate([np.delete(y, 256, axis=0), y[:1]])
    assert row_shifts(x, lost) == [RowShift(256, COUNT - 1, -1)]
    again = np.concatenate([y[:256], y[:1], y[256:511], y[512:]])
    assert row_shifts(x, again) == [RowShift(256, 511, 1)]


def test_aligned_and_shuffled_rows_are_not_shifted(pair: tuple[Floats, Floats]) -> None:
    x, y = pair
    assert row_shifts(x, y) == []
    assert row_shifts(3 * x + 1, -2 * y[:, ::-1]) == []
    assert row_shifts(x, y[np.random.default_rng(3).permutation(COUNT)]) == []
    assert row_shifts(x[:25], np.roll(y[:25], 1, axis=0)) == []


def test_rows_that_are_equal_are_not_shifted() -> None:
    rows = np.ones((200, 4), np.float32)
    rows[150:] = np.random.default_rng(0).normal(size=(50, 4))
    assert row_shifts(rows, rows) == []


def test_many_rows_are_compared_by_blocks_that_reach_the_last_one() -> None:
    x, y = (latent_space(seed, 8, count=64 * 70 + 10) for seed in (1, 2))
    assert row_shifts(x, np.roll(y, 2, axis=0)) == [RowShift(0, 64 * 70 + 9, 2)]
