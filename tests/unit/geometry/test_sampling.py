"""Farthest-point sampling and prunings against naive algorithms."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.sampling import Indices, farthest_point_sampling, prunings
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces
from tests.support.reference_formulas import naive_sampling


def _sample(unit: Any, delta: float, first: int) -> Indices:
    return farthest_point_sampling(unit, delta, [first])[0]


def unit_anchors(k: int, d: int, seed: int = 0) -> Floats:
    return np.asarray(Frame.from_anchors(make_spaces(k, d, 4, seed=seed).x_anchors).unit_anchors)


@pytest.mark.parametrize(("k", "d"), [(8, 20), (20, 20), (80, 20)])
@pytest.mark.parametrize("delta", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("first", [0, 5])
def test_farthest_point_sampling_equals_the_naive_algorithm(
    lib: ArrayLibrary, k: int, d: int, delta: float, first: int
) -> None:
    unit = unit_anchors(k, d, seed=k)
    unit[first] = 0
    unit[2] = -unit[1]
    actual = _sample(lib.from_numpy(unit), delta, first)
    assert actual.tolist() == naive_sampling(unit, delta, first)
    assert actual.dtype == np.int64


def test_selected_anchors_are_delta_apart_and_the_others_are_not() -> None:
    unit = unit_anchors(120, 10)
    selected = _sample(unit, 0.4, 7)
    assert 1 < len(selected) < 120
    distance = 1 - np.abs(unit @ unit[selected].T)
    apart = distance[selected] + np.eye(len(selected))
    assert apart.min() >= 0.4
    others = np.setdiff1d(np.arange(120), selected)
    assert distance[others].min(axis=1).max() < 0.4


def test_a_smaller_delta_only_appends() -> None:
    unit = unit_anchors(60, 10)
    many, few = _sample(unit, 0.1, 3), _sample(unit, 0.6, 3)
    assert len(few) < len(many)
    np.testing.assert_array_equal(many[: len(few)], few)


@pytest.mark.parametrize(
    ("unit", "delta", "first", "selected"),
    [
        pytest.param(np.eye(4), 1.0, 2, [2, 0, 1, 3], id="lowest index wins ties"),
        pytest.param(np.vstack([np.eye(3), -np.eye(3)]), 0.5, 4, [4, 0, 2], id="opposites are one"),
        pytest.param(np.repeat(np.eye(2), 3, axis=0), 0.0, 0, [0, 3, 1, 2, 4, 5], id="delta zero"),
        pytest.param(np.array([[1, 0], [0, 0], [0, 1.0]]), 0.0, 1, [2, 0], id="zero row skipped"),
        pytest.param(np.array([[0, 0], [1.0, 0], [0, 0]]), 0.0, 2, [1], id="the turn goes round"),
        pytest.param(np.ones((5, 4)) / 2, 0.1, 3, [3], id="all alike"),
    ],
)
def test_selection_of_small_examples(
    lib: ArrayLibrary, unit: Floats, delta: float, first: int, selected: list[int]
) -> None:
    assert _sample(lib.from_numpy(unit), delta, first).tolist() == selected


def test_sampling_of_zero_rows_is_refused(lib: ArrayLibrary) -> None:
    with pytest.raises(InvalidInputError, match="got 3 zero rows"):
        _sample(lib.from_numpy(np.zeros((3, 2))), 0.5, 0)


def test_equal_anchors_tie_despite_rounding_of_their_products() -> None:
    # Long rows in odd numbers, where libraries take different paths for different rows.
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(7, 513))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    doubled = np.vstack([unit, unit, unit])
    assert _sample(doubled, 1e-9, 0).tolist() == _sample(unit, 1e-9, 0).tolist()
    # Also where the last bit would decide.
    almost = np.array([[1, 0], [3e-15, 1], [0, 1], [1, 1e-13]])
    assert _sample(almost, 0.0, 0).tolist() == [0, 1, 2, 3]


def test_prunings_start_at_their_seeded_anchors(lib: ArrayLibrary) -> None:
    unit = unit_anchors(50, 10)
    actual = prunings(lib.from_numpy(unit), 0.5, 6)
    starts = [int(np.random.default_rng(seed).integers(50)) for seed in range(6)]
    assert len(set(starts)) > 1
    for selected, start in zip(actual, starts, strict=True):
        assert selected[0] == start
        assert selected.tolist() == naive_sampling(unit, 0.5, start)


def test_sampling_allocates_no_matrix_of_all_pairs() -> None:
    k = 3000
    unit = unit_anchors(k, 6)
    tracemalloc.start()
    _sample(unit, 0.9, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < k * k / 10
