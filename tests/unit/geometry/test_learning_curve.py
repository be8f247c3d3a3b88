"""Learning curves against a plain split, and their verdicts."""

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.bridges import FactorParameters, FittedSpace, compose
from stitchwork.geometry.diagnostics.learning_curve import (
    LearningCurvePoint,
    _extrapolated,
    _power_law,
    learning_curve,
)
from stitchwork.geometry.frame import Frame
from tests.support.latent_spaces import ArrayLibrary, Floats, cosines, make_spaces

P = FactorParameters()


def test_last_point_equals_a_plain_split(lib: ArrayLibrary) -> None:
    w = make_spaces(100, 16, 20, noise=0.3)
    curve = learning_curve(lib.from_numpy(w.x_anchors), lib.from_numpy(w.y_anchors), "ridge", P, P)
    each = []
    for draw in range(3):
        order = np.random.default_rng((0, draw)).permutation(100)
        test, fit = order[:20], order[20:]
        x, y = Frame.from_anchors(w.x_anchors[fit]), Frame.from_anchors(w.y_anchors[fit])
        rows = compose("ridge", FittedSpace(x), FittedSpace(y)).apply(w.x_anchors[test]).rows
        each.append(cosines(rows - y.mean, w.y_anchors[test] - y.mean).mean())
    last = curve.points[-1]
    assert last.anchors == 80
    assert last.similarity == pytest.approx(np.mean(each), abs=1e-5)
    assert last.std == pytest.approx(np.std(each), abs=1e-5)


def test_few_anchors_of_complex_spaces_are_not_enough_and_many_of_simple_ones_are() -> None:
    def verdict(k: int, latent: int) -> tuple[bool, float]:
        w = make_spaces(k, 64, 64, latent=latent, noise=0.01)
        curve = learning_curve(w.x_anchors, w.y_anchors, "ridge", P, P)
        assert curve.doubled is not None
        return curve.enough, curve.doubled - curve.points[-1].similarity

    few, many = verdict(60, 48), verdict(600, 4)
    assert not few[0]
    assert few[1] > 0.01
    assert many[0]
    assert many[1] < 0.01


def test_sizes_increase_and_similarity_with_them() -> None:
    w = make_spaces(300, 32, 32, latent=24, noise=0.05)
    points = learning_curve(w.x_anchors, w.y_anchors, "exp", P, P).points
    sizes = [p.anchors for p in points]
    assert len(sizes) == 8
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (8, 240)
    similarities = [p.similarity for p in points]
    assert similarities == sorted(similarities)


def test_flat_curve_of_unrelated_spaces_is_not_enough() -> None:
    x, y = make_spaces(200, 24, 5).x_anchors, make_spaces(200, 24, 5, seed=9).x_anchors
    curve = learning_curve(x, y, "ridge", P, P)
    assert not curve.enough
    assert "predict little" in curve.reason


def test_equal_input_gives_equal_curves() -> None:
    w = make_spaces(60, 8, 9)
    first, again = (learning_curve(w.x_anchors, w.y_anchors, "ridge", P, P) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("k", [2, 19])
def test_too_few_anchors_have_no_curve(k: int) -> None:
    w = make_spaces(k, 8, 9)
    curve = learning_curve(w.x_anchors, w.y_anchors, "ridge", P, P)
    assert (curve.points, curve.doubled, curve.enough) == ((), None, False)
    assert f"{k} anchors are too few" in curve.reason


def test_almost_all_equal_anchors_have_a_curve() -> None:
    anchors: Floats = np.ones((40, 4))
    anchors[:2] = np.eye(4)[:2]
    curve = learning_curve(anchors, anchors, "ridge", P, P)
    assert all(np.isfinite(p.similarity) for p in curve.points)


def test_power_law_is_extrapolated() -> None:
    points = tuple(LearningCurvePoint(n, 1 - 0.8 * n**-0.5, 0.0) for n in (100, 200, 400))
    assert _power_law(points, 800) == pytest.approx(1 - 0.8 * 800**-0.5)
    falling = tuple(
        LearningCurvePoint(n, s, 0.0) for n, s in ((100, 0.9), (200, 0.89), (400, 0.88))
    )
    assert _power_law(falling, 800) == pytest.approx(0.88)
    assert _extrapolated(falling).enough


def test_different_numbers_of_anchors_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="got 30 and 31"):
        learning_curve(
            make_spaces(30, 5, 4).x_anchors, make_spaces(31, 5, 4).x_anchors, "ridge", P, P
        )
