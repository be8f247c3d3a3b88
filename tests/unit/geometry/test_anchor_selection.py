"""The choice of anchors against a plain computation of kernel herding."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.diagnostics.anchor_selection import choose_anchors
from tests.support.latent_spaces import ArrayLibrary


def unit(count: int, seed: int, width: int = 8) -> NDArray[np.float64]:
    """Unit rows around three centres."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, width))[rng.integers(3, size=count)] * 2
    rows += rng.normal(size=(count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def plain_choice(
    pool: NDArray[np.float64], count: int, anchors: NDArray[np.float64]
) -> list[tuple[int, float]]:
    chosen: list[tuple[int, float]] = []
    for _ in range(count):
        rows = np.vstack([anchors, *(pool[i] for i, _ in chosen)])
        typical = np.exp(4 * (pool @ pool.T - 1)).mean(axis=0)
        gains = typical - np.exp(4 * (rows @ pool.T - 1)).sum(axis=0) / (len(rows) + 1)
        free = [i for i in range(len(pool)) if i not in {j for j, _ in chosen}]
        best = max(free, key=lambda i: gains[i])
        chosen.append((best, 1 - (rows @ pool[best]).max()))
    return chosen


def test_choice_equals_kernel_herding_step_by_step(lib: ArrayLibrary) -> None:
    pool, anchors = unit(120, 0), unit(10, 1)
    expected = plain_choice(pool, 12, anchors)
    steps = choose_anchors(lib.from_numpy(pool), 12, lib.from_numpy(anchors))
    assert [step.row for step in steps] == [row for row, _ in expected]
    np.testing.assert_allclose([s.distance for s in steps], [d for _, d in expected], atol=1e-9)
    narrow = choose_anchors(lib.from_numpy(pool.astype(np.float32)), 12, lib.from_numpy(anchors))
    assert [step.row for step in narrow] == [step.row for step in steps]


def test_smaller_choice_is_the_beginning_of_a_larger_one() -> None:
    pool = unit(200, 2)
    assert choose_anchors(pool, 5) == choose_anchors(pool, 40)[:5]
    assert choose_anchors(pool, 5)[0].distance == 2


def test_copies_anchors_and_rows_without_direction_are_never_chosen() -> None:
    rows = unit(6, 3)
    pool = np.vstack([rows, rows, np.zeros((2, 8))]).astype(np.float32)
    chosen = [step.row for step in choose_anchors(pool, 14)]
    assert sorted(chosen) == [0, 1, 2, 3, 4, 5]
    chosen = [step.row for step in choose_anchors(pool, 14, rows[:2].astype(np.float32))]
    assert sorted(chosen) == [2, 3, 4, 5]
    assert choose_anchors(np.zeros((3, 8)), 2) == []


def test_choice_covers_each_cluster_in_proportion() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    rows = np.eye(3, 12)[labels] * 3 + rng.normal(size=(1000, 12)) * 0.4
    pool = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = labels[[step.row for step in choose_anchors(pool, 40)]]
    counts = np.bincount(chosen, minlength=3)
    assert abs(counts - np.array([24, 12, 4])).max() <= 4, counts


def test_large_pool_is_represented_by_a_part_of_it() -> None:
    pool = unit(300, 5)
    whole = [step.row for step in choose_anchors(pool, 30)]
    part = [step.row for step in choose_anchors(pool, 30, max_reference=100)]
    assert part != whole
    similarity = np.exp(4 * (pool[whole] @ pool.T - 1)).mean(0)
    of_part = np.exp(4 * (pool[part] @ pool.T - 1)).mean(0)
    assert np.corrcoef(similarity, of_part)[0, 1] > 0.9


def test_choice_of_no_row_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1 row, got 0"):
        choose_anchors(unit(5, 0), 0)
