"""Comparison of rows with precise rows of the same inputs."""

import numpy as np
import pytest

from stitchwork.geometry.diagnostics.row_precision import MIN_COSINE, TIE, row_precision
from stitchwork.resources import Floats


def normal_rows(count: int = 50, width: int = 64) -> Floats:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_scaled_rows_are_equivalent() -> None:
    rows = normal_rows()
    result = row_precision(3 * rows, rows)
    assert result.min_cosine == pytest.approx(1)
    assert (result.same_nearest, result.is_equivalent) == (1, True)


def test_one_row_at_a_smaller_cosine_is_enough_to_differ() -> None:
    rows = normal_rows()
    x = rows.copy()
    x[7] += np.roll(rows[7], 1) * np.float32(0.02)
    cosine = x[7] @ rows[7] / np.linalg.norm(x[7]) / np.linalg.norm(rows[7])
    result = row_precision(x, rows)
    assert result.min_cosine == pytest.approx(float(cosine), abs=1e-6)
    assert result.min_cosine < MIN_COSINE
    assert not result.is_equivalent


def test_rows_with_another_nearest_row_are_counted_unless_both_are_equally_near() -> None:
    def on_circle(*degrees: float) -> Floats:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    precise = on_circle(0, 60.2, -60)
    # The first row is nearer to the third by float32, and to the second by the other data type.
    x = on_circle(0.3, 60.2, -60)
    assert np.cos(np.radians(60)) - np.cos(np.radians(60.2)) > TIE
    assert row_precision(x, precise).same_nearest == pytest.approx(2 / 3)
    assert row_precision(on_circle(0.03, 60.02, -60), on_circle(0, 60.02, -60)).same_nearest == 1


def test_rows_that_are_not_finite_are_not_equivalent() -> None:
    rows = normal_rows()
    x = rows.copy()
    x[0, 0] = np.nan
    assert row_precision(x, rows) == (-1, 0)
    assert not row_precision(x, rows).is_equivalent


def test_a_row_without_a_direction_is_not_equivalent_to_one_with() -> None:
    rows = normal_rows()
    x = rows.copy()
    x[0] = 0
    assert not row_precision(x, rows).is_equivalent
