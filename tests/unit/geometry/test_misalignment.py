"""Pairs that do not belong together are found, and others left alone."""

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.diagnostics.misalignment import (
    MIN_PROBABILITY,
    RIDGE,
    _predictions,
    misaligned_pairs,
)
from stitchwork.geometry.frame import Frame
from tests.support.latent_spaces import (
    ArrayLibrary,
    Floats,
    SpacePair,
    make_spaces,
    plain_unit,
    rotation,
)
from tests.support.reference_formulas import degenerate


def swap(w: SpacePair, share: float, seed: int = 0) -> tuple[Floats, list[int]]:
    """The target's anchors with some of them in each other's places, and which."""
    k = len(w.y_anchors)
    picked = np.random.default_rng(seed).permutation(k)[: round(share * k)]
    moved = w.y_anchors.copy()
    moved[picked] = moved[np.roll(picked, 1)]
    return moved, sorted(picked.tolist())


def pairs(x: Floats, y: Floats, lib: ArrayLibrary) -> list[int]:
    return sorted(
        s.pair
        for s in misaligned_pairs(
            Frame.from_anchors(lib.from_numpy(x)), Frame.from_anchors(lib.from_numpy(y))
        )
    )


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.2])
@pytest.mark.parametrize(("noise", "k"), [(0.02, 100), (0.5, 300)])
def test_swapped_pairs_are_named(lib: ArrayLibrary, share: float, noise: float, k: int) -> None:
    w = make_spaces(k, 24, 32, noise=noise)
    y, picked = swap(w, share)
    found = pairs(w.x_anchors, y, lib)
    assert len(set(found) & set(picked)) >= 0.9 * len(picked)
    assert len(set(found) - set(picked)) <= 0.1 * len(picked)


def test_a_suspect_says_where_it_belongs(lib: ArrayLibrary) -> None:
    w = make_spaces(200, 24, 32)
    y = w.y_anchors.copy()
    y[[3, 50]] = y[[50, 3]]
    first, second = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(w.x_anchors)), Frame.from_anchors(lib.from_numpy(y))
    )
    assert {(s.pair, s.best_match) for s in (first, second)} == {(3, 50), (50, 3)}
    assert first.probability >= second.probability > MIN_PROBABILITY
    assert min(first.rank, second.rank) > 0
    assert max(first.cosine, second.cosine) < 0.9


def test_foreign_rows_are_named_too(lib: ArrayLibrary) -> None:
    w = make_spaces(300, 24, 32)
    y = w.y_anchors.copy()
    y[[7, 90, 200]] = w.y[:3]
    assert pairs(w.x_anchors, y, lib) == [7, 90, 200]


def test_moving_scaling_and_rotating_changes_nothing(lib: ArrayLibrary) -> None:
    w = make_spaces(150, 24, 32, noise=0.3)
    y, _ = swap(w, 0.05)
    found = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(w.x_anchors)), Frame.from_anchors(lib.from_numpy(y))
    )
    again = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(3 * w.x_anchors @ rotation(24) + 1)),
        Frame.from_anchors(lib.from_numpy(0.1 * y - 4)),
    )
    assert found
    assert [s.pair for s in again] == [s.pair for s in found]
    np.testing.assert_allclose([s.cosine for s in again], [s.cosine for s in found], atol=1e-8)


def test_a_prediction_is_that_of_a_fit_without_the_pair(lib: ArrayLibrary) -> None:
    w = make_spaces(40, 10, 12)
    u, v = (plain_unit(rows, rows.mean(0)) for rows in (w.x_anchors, w.y_anchors))
    right = np.arange(40) % 7 != 0
    got = lib.to_numpy(_predictions(lib.from_numpy(u), lib.from_numpy(v), right))
    for i in range(40):
        rest = np.flatnonzero(right & (np.arange(40) != i))
        kernel = np.exp(u[rest] @ u[rest].T - 1) + RIDGE * np.eye(len(rest))
        want = np.exp(u[i] @ u[rest].T - 1) @ np.linalg.solve(kernel, v[rest])
        np.testing.assert_allclose(got[i], want / np.linalg.norm(want), atol=1e-9)


def test_spaces_that_have_nothing_in_common_name_hardly_any(lib: ArrayLibrary) -> None:
    x, y = make_spaces(200, 24, 5).x_anchors, make_spaces(200, 24, 5, seed=9).x_anchors
    assert len(pairs(x, y, lib)) <= 10


def test_of_few_pairs_nothing_is_said(lib: ArrayLibrary) -> None:
    w = make_spaces(19, 6, 7)
    assert pairs(w.x_anchors, w.y_anchors[::-1].copy(), lib) == []


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_anchors_are_borne(lib: ArrayLibrary, name: str) -> None:
    anchors = degenerate()[name]
    found = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(anchors)), Frame.from_anchors(lib.from_numpy(anchors))
    )
    assert all(np.isfinite([s.probability, s.cosine]).all() for s in found)
    assert len(found) <= 0.1 * len(anchors)


def test_anchors_at_the_mean_keep_their_index_and_are_never_named(lib: ArrayLibrary) -> None:
    w = make_spaces(100, 24, 32)
    x = w.x_anchors.copy()
    x -= np.delete(x, 10, axis=0).mean(0)
    x[10] = 0
    y = w.y_anchors.copy()
    y[[50, 80]] = y[[80, 50]]
    assert not Frame.from_anchors(x).unit_anchors[10].any()
    assert pairs(x, y, lib) == [50, 80]


def test_the_numbers_of_anchors_agree() -> None:
    with pytest.raises(InvalidInputError, match="got 30 and 31"):
        misaligned_pairs(
            Frame.from_anchors(make_spaces(30, 5, 4).x_anchors),
            Frame.from_anchors(make_spaces(31, 5, 4).x_anchors),
        )
