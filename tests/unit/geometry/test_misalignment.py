"""Misaligned pairs are reported, and few others."""

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
from tests.support.reference_formulas import degenerate_anchors


def swap(w: SpacePair, share: float, seed: int = 0) -> tuple[Floats, list[int]]:
    """The target's anchors with some of them exchanged, and the indices of those."""
    k = len(w.y_anchors)
    swapped = np.random.default_rng(seed).permutation(k)[: round(share * k)]
    moved = w.y_anchors.copy()
    moved[swapped] = moved[np.roll(swapped, 1)]
    return moved, sorted(swapped.tolist())


def reported(x: Floats, y: Floats, lib: ArrayLibrary) -> list[int]:
    return sorted(
        s.pair
        for s in misaligned_pairs(
            Frame.from_anchors(lib.from_numpy(x)), Frame.from_anchors(lib.from_numpy(y))
        )
    )


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.2])
@pytest.mark.parametrize(("noise", "k"), [(0.02, 100), (0.5, 300)])
def test_swapped_pairs_are_reported(lib: ArrayLibrary, share: float, noise: float, k: int) -> None:
    w = make_spaces(k, 24, 32, noise=noise)
    y, swapped = swap(w, share)
    indices = reported(w.x_anchors, y, lib)
    assert len(set(indices) & set(swapped)) >= 0.9 * len(swapped)
    assert len(set(indices) - set(swapped)) <= 0.1 * len(swapped)


def test_misaligned_pair_names_its_best_match(lib: ArrayLibrary) -> None:
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


def test_replaced_rows_are_reported(lib: ArrayLibrary) -> None:
    w = make_spaces(300, 24, 32)
    y = w.y_anchors.copy()
    y[[7, 90, 200]] = w.y[:3]
    assert reported(w.x_anchors, y, lib) == [7, 90, 200]


def test_misaligned_pairs_ignore_rotation_scaling_and_translation(lib: ArrayLibrary) -> None:
    w = make_spaces(150, 24, 32, noise=0.3)
    y, _ = swap(w, 0.05)
    pairs = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(w.x_anchors)), Frame.from_anchors(lib.from_numpy(y))
    )
    again = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(3 * w.x_anchors @ rotation(24) + 1)),
        Frame.from_anchors(lib.from_numpy(0.1 * y - 4)),
    )
    assert pairs
    assert [s.pair for s in again] == [s.pair for s in pairs]
    np.testing.assert_allclose([s.cosine for s in again], [s.cosine for s in pairs], atol=1e-8)


def test_prediction_equals_a_fit_without_the_pair(lib: ArrayLibrary) -> None:
    w = make_spaces(40, 10, 12)
    u, v = (plain_unit(rows, rows.mean(0)) for rows in (w.x_anchors, w.y_anchors))
    trusted = np.arange(40) % 7 != 0
    actual = lib.to_numpy(_predictions(lib.from_numpy(u), lib.from_numpy(v), trusted))
    for i in range(40):
        rest = np.flatnonzero(trusted & (np.arange(40) != i))
        kernel = np.exp(u[rest] @ u[rest].T - 1) + RIDGE * np.eye(len(rest))
        expected = np.exp(u[i] @ u[rest].T - 1) @ np.linalg.solve(kernel, v[rest])
        np.testing.assert_allclose(actual[i], expected / np.linalg.norm(expected), atol=1e-9)


def test_unrelated_spaces_report_few_pairs(lib: ArrayLibrary) -> None:
    x, y = make_spaces(200, 24, 5).x_anchors, make_spaces(200, 24, 5, seed=9).x_anchors
    assert len(reported(x, y, lib)) <= 10


def test_too_few_pairs_report_nothing(lib: ArrayLibrary) -> None:
    w = make_spaces(19, 6, 7)
    assert reported(w.x_anchors, w.y_anchors[::-1].copy(), lib) == []


@pytest.mark.parametrize("name", degenerate_anchors())
def test_degenerate_anchors_report_few_pairs(lib: ArrayLibrary, name: str) -> None:
    anchors = degenerate_anchors()[name]
    pairs = misaligned_pairs(
        Frame.from_anchors(lib.from_numpy(anchors)), Frame.from_anchors(lib.from_numpy(anchors))
    )
    assert all(np.isfinite([s.probability, s.cosine]).all() for s in pairs)
    assert len(pairs) <= 0.1 * len(anchors)


def test_anchors_at_the_mean_keep_their_index_and_are_never_reported(lib: ArrayLibrary) -> None:
    w = make_spaces(100, 24, 32)
    x = w.x_anchors.copy()
    x -= np.delete(x, 10, axis=0).mean(0)
    x[10] = 0
    y = w.y_anchors.copy()
    y[[50, 80]] = y[[80, 50]]
    assert not Frame.from_anchors(x).unit_anchors[10].any()
    assert reported(x, y, lib) == [50, 80]


def test_different_numbers_of_anchors_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="got 30 and 31"):
        misaligned_pairs(
            Frame.from_anchors(make_spaces(30, 5, 4).x_anchors),
            Frame.from_anchors(make_spaces(31, 5, 4).x_anchors),
        )
