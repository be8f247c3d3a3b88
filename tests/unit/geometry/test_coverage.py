"""What lies outside the anchors is told from the anchors alone."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stitchwork.geometry.coverage import FOLDS, MIN_ANCHORS, Coverage
from stitchwork.geometry.frame import Frame
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces, plain_unit, rotation


def plain_threshold(anchors: Floats, axes: int) -> float:
    """What the one in a hundred that is lowest keeps on the axes of the other folds."""
    unit = plain_unit(anchors, anchors.mean(0))
    kept = np.empty(len(unit))
    for i in range(FOLDS):
        mine = np.arange(len(unit)) % FOLDS == i
        _, _, directions = np.linalg.svd(unit[~mine])
        kept[mine] = np.square(unit[mine] @ directions[:axes].T).sum(1)
    return float(np.sort(kept)[len(anchors) // 100])


def test_the_threshold_is_what_anchors_left_out_reach(lib: ArrayLibrary) -> None:
    anchors = make_spaces(200, 8, 12, latent=5).y_anchors
    found = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(anchors)))
    assert found.axes.shape == (12, 4)
    assert found.threshold == pytest.approx(plain_threshold(anchors, 4), abs=1e-6)


def test_it_does_not_depend_on_how_a_space_is_turned_scaled_or_moved(lib: ArrayLibrary) -> None:
    w = make_spaces(300, 8, 12, latent=5, n=200)
    rows = np.concatenate([w.y, np.random.default_rng(0).normal(size=w.y.shape)])
    one = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(w.y_anchors)))
    turned = 7 * w.y_anchors @ rotation(12) + 3
    other = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(turned)))
    assert other.threshold == pytest.approx(one.threshold, abs=1e-6)
    first = lib.to_numpy(one.covers(lib.from_numpy(rows.astype(np.float32))))
    again = lib.to_numpy(
        other.covers(lib.from_numpy((7 * rows @ rotation(12) + 3).astype(np.float32)))
    )
    np.testing.assert_array_equal(first, again)
    assert first[:200].mean() > 0.95
    assert first[200:].mean() < 0.5


def test_digits_cover_digits_and_neither_noise_nor_their_negatives() -> None:
    images, _ = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(images.astype(np.float32))
    anchors, unseen = rows[:800], rows[800:]
    seen = Coverage.from_frame(Frame.from_anchors(anchors))
    noise = np.random.default_rng(1).integers(0, 17, (300, 64)).astype(np.float32)
    assert seen.axes.shape == (64, 21)
    assert seen.covers(unseen).mean() > 0.95
    assert seen.covers(noise).mean() < 0.02
    assert seen.covers(16 - unseen).mean() < 0.05


def test_edges(lib: ArrayLibrary) -> None:
    anchors = make_spaces(100, 8, 12, latent=5).y_anchors
    seen = Frame.from_anchors(lib.from_numpy(anchors))
    found = Coverage.from_frame(seen)
    rows = np.stack([np.asarray(lib.to_numpy(seen.mean)), np.full(12, 1e30), np.zeros(12)])
    got = lib.to_numpy(found.covers(lib.from_numpy(rows.astype(np.float32))))
    assert got.tolist()[:2] == [True, False], "at the mean nothing is known; too large is nowhere"
    few = Coverage.from_frame(Frame.from_anchors(lib.from_numpy(anchors[: MIN_ANCHORS - 1])))
    assert lib.to_numpy(few.covers(lib.from_numpy(rows.astype(np.float32)))).all()
    assert found.nbytes == 4 * (12 + 12 * 4)
