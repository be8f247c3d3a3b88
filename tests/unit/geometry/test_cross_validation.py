"""Cross-validation against a plain loop, and on unrelated spaces."""

import numpy as np
import pytest

from stitchwork.geometry.bridges import BRIDGES, FactorParameters, FittedSpace, compose
from stitchwork.geometry.diagnostics.cross_validation import (
    FOLDS,
    MAX_ANCHORS,
    AnchoredSpace,
    cross_validate,
)
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced
from tests.support.latent_spaces import Floats, cosines, make_spaces

OWN = FactorParameters()


def anchored(anchors: Floats) -> AnchoredSpace:
    return AnchoredSpace(anchors.astype(np.float32), OWN)


def test_cross_validation_equals_translating_each_fifth_by_the_others() -> None:
    w = make_spaces(83, 10, 14, noise=0.5)
    similar, nearest = [], 0
    for fold in range(FOLDS):
        is_test = np.arange(83) % FOLDS == fold
        x, y = (
            Frame.from_anchors(w.x_anchors[~is_test]),
            Frame.from_anchors(w.y_anchors[~is_test]),
        )
        rows = (
            compose("ridge", FittedSpace(x, OWN), FittedSpace(y, OWN))
            .apply(w.x_anchors[is_test])
            .rows
        )
        true = w.y_anchors[is_test] - y.mean
        similar.append(cosines(rows - y.mean, true))
        for i, row in enumerate(rows - y.mean):
            nearest += int(np.argmax(cosines(np.tile(row, (len(true), 1)), true)) == i)
    spaces = {"x": anchored(w.x_anchors), "y": anchored(w.y_anchors)}
    ((pair, score),) = cross_validate(spaces, [("x", "y")], "ridge")
    assert pair == ("x", "y")
    assert score is not None
    assert score.similarity == pytest.approx(np.concatenate(similar).mean(), abs=1e-5)
    assert score.recall == pytest.approx(nearest / 83)
    assert score.chance == pytest.approx(5 / 83)
    assert score.anchors == 83
    assert 0.3 < score.recall < 1, "a case with both outcomes"


@pytest.mark.parametrize("bridge", [b for b in BRIDGES if b != "none"])
def test_cross_validation_of_shuffled_anchors_is_near_chance(bridge: str) -> None:
    w = make_spaces(200, 12, 16)
    order = np.random.default_rng(1).permutation(200)
    spaces = {
        "x": anchored(w.x_anchors),
        "y": anchored(w.y_anchors),
        "z": anchored(w.y_anchors[order]),
    }
    pairs = [("x", "y"), ("x", "z")]
    scores = dict(cross_validate(spaces, pairs, bridge))  # type: ignore[arg-type]
    parallel, shuffled = scores["x", "y"], scores["x", "z"]
    assert parallel is not None
    assert shuffled is not None
    assert parallel.similarity > 0.4
    assert abs(shuffled.similarity) < 0.15
    assert shuffled.recall < 5 * shuffled.chance


def test_bridge_none_has_no_score_between_widths_and_a_low_one_between_unrelated_spaces() -> None:
    w = make_spaces(60, 8, 8, latent=6)
    wide = make_spaces(60, 8, 9)
    spaces = {"x": anchored(w.x_anchors), "y": anchored(w.y_anchors), "w": anchored(wide.y_anchors)}
    scores = dict(cross_validate(spaces, [("x", "y"), ("x", "w")], "none"))
    assert scores["x", "w"] is None
    same = scores["x", "y"]
    assert same is not None
    assert same.similarity < 0.5


def test_cross_validation_of_too_few_or_equal_anchors_is_none() -> None:
    few = make_spaces(9, 4, 5)
    assert dict(
        cross_validate(
            {"x": anchored(few.x_anchors), "y": anchored(few.y_anchors)}, [("x", "y")], "ridge"
        )
    ) == {("x", "y"): None}
    alike = np.repeat(np.array([[1.0, 2.0], [3.0, 4.0]]), [29, 1], axis=0)
    spaces = {"x": anchored(alike), "y": anchored(make_spaces(30, 4, 5).y_anchors)}
    assert dict(cross_validate(spaces, [("x", "y")], "ridge")) == {("x", "y"): None}
    assert list(cross_validate({}, [], "ridge")) == []


def test_recall_of_a_duplicated_anchor_counts_its_copy() -> None:
    w = make_spaces(40, 10, 14, noise=0.001)
    # Copies 40 apart are in the same fifth, where they cannot be distinguished.
    spaces = {
        "x": anchored(np.tile(w.x_anchors, (2, 1))),
        "y": anchored(np.tile(w.y_anchors, (2, 1))),
    }
    ((_, score),) = cross_validate(spaces, [("x", "y")], "ridge")
    assert score is not None
    assert score.recall > 0.85, "one in two if a copy counted as another anchor"


def test_evenly_spaced_of_few_is_all_and_of_many_is_the_maximum() -> None:
    np.testing.assert_array_equal(evenly_spaced(7, MAX_ANCHORS), np.arange(7))
    used = evenly_spaced(5 * MAX_ANCHORS // 2, MAX_ANCHORS)
    assert len(used) == MAX_ANCHORS
    assert set(np.diff(used)) == {2, 3}
