"""Held-out anchors tell spaces that see the same from spaces that do not, without labels."""

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


def test_it_is_what_translating_each_fifth_by_the_others_gives() -> None:
    w = make_spaces(83, 10, 14, noise=0.5)
    similar, nearest = [], 0
    for fold in range(FOLDS):
        left_out = np.arange(83) % FOLDS == fold
        x, y = (
            Frame.from_anchors(w.x_anchors[~left_out]),
            Frame.from_anchors(w.y_anchors[~left_out]),
        )
        rows = (
            compose("ridge", FittedSpace(x, OWN), FittedSpace(y, OWN))
            .apply(w.x_anchors[left_out])
            .rows
        )
        true = w.y_anchors[left_out] - y.mean
        similar.append(cosines(rows - y.mean, true))
        for i, row in enumerate(rows - y.mean):
            nearest += int(np.argmax(cosines(np.tile(row, (len(true), 1)), true)) == i)
    spaces = {"x": anchored(w.x_anchors), "y": anchored(w.y_anchors)}
    ((pair, found),) = cross_validate(spaces, [("x", "y")], "ridge")
    assert pair == ("x", "y")
    assert found is not None
    assert found.similarity == pytest.approx(np.concatenate(similar).mean(), abs=1e-5)
    assert found.recall == pytest.approx(nearest / 83)
    assert found.chance == pytest.approx(5 / 83)
    assert found.anchors == 83
    assert 0.3 < found.recall < 1, "a case in which both are told apart"


@pytest.mark.parametrize("bridge", [b for b in BRIDGES if b != "none"])
def test_shuffled_anchors_have_nothing_in_common(bridge: str) -> None:
    w = make_spaces(200, 12, 16)
    order = np.random.default_rng(1).permutation(200)
    spaces = {
        "x": anchored(w.x_anchors),
        "y": anchored(w.y_anchors),
        "z": anchored(w.y_anchors[order]),
    }
    pairs = [("x", "y"), ("x", "z")]
    found = dict(cross_validate(spaces, pairs, bridge))  # type: ignore[arg-type]
    parallel, shuffled = found["x", "y"], found["x", "z"]
    assert parallel is not None
    assert shuffled is not None
    assert parallel.similarity > 0.4
    assert abs(shuffled.similarity) < 0.15
    assert shuffled.recall < 5 * shuffled.chance


def test_none_cannot_be_told_between_widths_and_is_poor_between_strangers() -> None:
    w = make_spaces(60, 8, 8, latent=6)
    wide = make_spaces(60, 8, 9)
    spaces = {"x": anchored(w.x_anchors), "y": anchored(w.y_anchors), "w": anchored(wide.y_anchors)}
    found = dict(cross_validate(spaces, [("x", "y"), ("x", "w")], "none"))
    assert found["x", "w"] is None
    same = found["x", "y"]
    assert same is not None
    assert same.similarity < 0.5


def test_what_cannot_be_told_is_none() -> None:
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


def test_an_anchor_that_stands_twice_may_be_found_as_its_copy() -> None:
    w = make_spaces(40, 10, 14, noise=0.001)
    # Copies 40 apart fall into the same fifth, where one cannot be told from the other.
    spaces = {
        "x": anchored(np.tile(w.x_anchors, (2, 1))),
        "y": anchored(np.tile(w.y_anchors, (2, 1))),
    }
    ((_, found),) = cross_validate(spaces, [("x", "y")], "ridge")
    assert found is not None
    assert found.recall > 0.85, "one in two if a copy counted as another anchor"


def test_of_many_anchors_some_evenly_spaced_ones_are_used() -> None:
    np.testing.assert_array_equal(evenly_spaced(7, MAX_ANCHORS), np.arange(7))
    used = evenly_spaced(5 * MAX_ANCHORS // 2, MAX_ANCHORS)
    assert len(used) == MAX_ANCHORS
    assert set(np.diff(used)) == {2, 3}
