"""Each inverse, against its formula written plainly and against the regression it stands for."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import sklearn.covariance
from sklearn.linear_model import Ridge

from stitchwork.geometry.bridges import FactorParameters, FittedSpace, compose, compute_inverse
from stitchwork.geometry.exp_factors import exp_inverse, landmark_indices
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.irp_factors import irp_inverse
from stitchwork.geometry.ridge_factors import oas_shrinkage, ridge_inverse, whitened_inverse
from tests.support.latent_spaces import ArrayLibrary, Floats, make_spaces
from tests.support.reference_formulas import (
    FLOOR,
    SHAPES,
    degenerate,
    exp_whole,
    frames,
    irp_whole,
    plain_dual,
    plain_exp,
    plain_kernel,
    plain_read,
    plain_rho,
    plain_white,
    plain_write,
    ridge_whole,
    whitened_whole,
)


@pytest.mark.parametrize(("k", "d"), [(5, 16), (16, 16), (60, 16), (500, 16)])
def test_shrinkage_is_that_of_scikit_learn(lib: ArrayLibrary, k: int, d: int) -> None:
    *_, u, _ = frames(lib, k, d)
    _, known = sklearn.covariance.oas(u, assume_centered=True)
    assert oas_shrinkage(lib.from_numpy(u.T @ u / k), k) == pytest.approx(known, rel=1e-9)
    assert oas_shrinkage(lib.from_numpy(7 * u.T @ u / k), k) == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize(("covariance", "samples"), [(np.eye(4) / 4, 100), (np.ones((1, 1)), 5)])
def test_isotropic_anchors_are_shrunk_all_the_way(
    lib: ArrayLibrary, covariance: Floats, samples: int
) -> None:
    assert oas_shrinkage(lib.from_numpy(covariance), samples) == 1.0


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("shrinkage", [None, 1e-5, 0.01, 0.5, 1.0])
def test_ridge_read_is_its_formula_in_both_forms(
    lib: ArrayLibrary, k: int, d: int, shrinkage: float | None
) -> None:
    x, _, u, _ = frames(lib, k, d)
    rho = max(plain_rho(u), FLOOR) if shrinkage is None else shrinkage
    got = ridge_whole(x, shrinkage)
    assert lib.to_numpy(got).dtype == np.float64
    np.testing.assert_allclose(lib.to_numpy(got), plain_read(u, rho), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(lib.to_numpy(got), plain_dual(u, rho), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.5])
@pytest.mark.parametrize("k", [10, 40])
def test_zero_anchors_count_in_k_and_not_in_the_trace(
    lib: ArrayLibrary, k: int, shrinkage: float | None
) -> None:
    *_, u, _ = frames(lib, k, 16)
    u[[0, 3, 4]] = 0
    seen = Frame(lib.from_numpy(np.zeros(16)), 1.0, lib.from_numpy(u))
    rho = max(plain_rho(u), FLOOR) if shrinkage is None else shrinkage
    want = plain_read(u, rho) if rho else np.linalg.pinv(u, rcond=1e-6)
    np.testing.assert_allclose(lib.to_numpy(ridge_whole(seen, shrinkage)), want, atol=1e-9)


def test_few_anchors_in_a_wide_space_never_make_a_matrix_of_its_width() -> None:
    seen = Frame.from_anchors(make_spaces(6, 1500, 4).x_anchors)
    tracemalloc.start()
    ridge_whole(seen, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1500 * 1500


def test_the_rule_takes_the_larger_of_shrinkage_and_floor() -> None:
    few, many = (
        Frame.from_anchors(make_spaces(9, 16, 4).x_anchors),
        Frame.from_anchors(make_spaces(900, 16, 4).x_anchors),
    )
    assert (
        plain_rho(np.asarray(few.unit_anchors)) > FLOOR > plain_rho(np.asarray(many.unit_anchors))
    )
    np.testing.assert_allclose(
        ridge_whole(few, None), plain_read(few.unit_anchors, plain_rho(few.unit_anchors)), rtol=1e-9
    )
    np.testing.assert_allclose(
        ridge_whole(many, None), plain_read(many.unit_anchors, FLOOR), rtol=1e-9
    )


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("rho", [0.01, FLOOR, 0.9])
def test_ridge_is_the_ridge_regression_that_needs_both_spaces(
    lib: ArrayLibrary, k: int, d: int, rho: float
) -> None:
    x, y, u, v = frames(lib, k, d)
    alpha = rho / (1 - rho) * np.trace(u.T @ u) / d
    regression = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(u, v)
    got = (1 - rho) * lib.to_numpy(ridge_whole(x, rho) @ y.unit_anchors)
    np.testing.assert_allclose(got, regression.coef_.T, atol=1e-9)


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_without_shrinkage_ridge_is_the_pseudo_inverse(lib: ArrayLibrary, k: int, d: int) -> None:
    x, _, u, _ = frames(lib, k, d)
    want = np.linalg.pinv(u, rcond=1e-6)
    np.testing.assert_allclose(
        lib.to_numpy(ridge_whole(x, 0.0)), want, atol=1e-9 * np.abs(want).max()
    )
    # The two ways of solving meet where one takes over from the other.
    np.testing.assert_allclose(
        lib.to_numpy(ridge_whole(x, 0.999999e-6)),
        lib.to_numpy(ridge_whole(x, 1e-6)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("shrinkage", [None, 0.0, 1e-300, 1e-12, 1e-6, 1.0])
def test_ridge_stays_finite_on_anything(
    lib: ArrayLibrary, case: str, shrinkage: float | None
) -> None:
    seen = Frame.from_anchors(lib.from_numpy(degenerate()[case]))
    read = lib.to_numpy(ridge_whole(seen, shrinkage))
    assert np.isfinite(read).all()
    # 1e6 is the most that one kept direction is stretched by; noise would be far above it.
    assert np.abs(read).max() < 1e6
    at_mean = ~np.any(lib.to_numpy(seen.unit_anchors), axis=1)
    assert not read[:, at_mean].any()


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_irp_is_the_transpose_of_the_regression_from_the_target_back(
    lib: ArrayLibrary, k: int, d: int
) -> None:
    x, y, u, v = frames(lib, k, d)
    back, *_ = np.linalg.lstsq(v, u, rcond=1e-6)
    got = lib.to_numpy(x.unit_anchors.T @ irp_whole(y, 0.0, 1))
    np.testing.assert_allclose(got, back.T, atol=1e-8)


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("delta", [0.3, 0.6])
def test_the_ensemble_is_the_mean_of_its_parts(
    lib: ArrayLibrary, k: int, d: int, delta: float
) -> None:
    _, y, _, v = frames(lib, k, d)
    got = irp_whole(y, delta, 5)
    assert lib.to_numpy(got).dtype == np.float64
    np.testing.assert_allclose(lib.to_numpy(got), plain_write(v, delta, list(range(5))), atol=1e-9)
    parts = [plain_write(v, delta, [seed]) for seed in range(5)]
    np.testing.assert_allclose(lib.to_numpy(got), np.mean(parts, axis=0), atol=1e-9)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3 or k < d


def test_directions_of_negligible_size_are_not_inverted(lib: ArrayLibrary) -> None:
    anchors = degenerate()["almost rank-deficient"]
    write = lib.to_numpy(irp_whole(Frame.from_anchors(lib.from_numpy(anchors)), 0.0, 1))
    assert np.linalg.matrix_rank(write, tol=1e-3) == 3
    assert np.abs(write).max() < 10


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize(("shrinkage", "power"), [(None, 0.15), (0.5, 0.5), (1.0, 0.3)])
def test_whitened_write_is_its_formula_in_both_forms(
    lib: ArrayLibrary, k: int, d: int, shrinkage: float | None, power: float
) -> None:
    x, _, u, _ = frames(lib, k, d)
    rho = max(plain_rho(u), FLOOR) if shrinkage is None else shrinkage
    got = lib.to_numpy(whitened_whole(x, shrinkage, power))
    np.testing.assert_allclose(got, plain_white(u, rho, power), rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(
        lib.to_numpy(whitened_whole(x, shrinkage, 0)), lib.to_numpy(x.unit_anchors)
    )


def test_full_whitening_evens_out_what_the_anchors_span(lib: ArrayLibrary) -> None:
    x, *_ = frames(lib, 60, 16)
    values = np.linalg.svd(lib.to_numpy(whitened_whole(x, 0.0, 0.5)), compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    flat = Frame.from_anchors(lib.from_numpy(degenerate()["rank-deficient"]))
    assert np.abs(lib.to_numpy(whitened_whole(flat, 0.0, 0.5))).max() < 10


@pytest.mark.parametrize("k", [9, 60])
def test_a_dead_dimension_stays_dead(lib: ArrayLibrary, k: int) -> None:
    anchors = make_spaces(k, 16, 4).x_anchors
    anchors[:, 3] *= 1e-33
    x = Frame.from_anchors(lib.from_numpy(anchors))
    assert np.abs(lib.to_numpy(whitened_whole(x, None, 0.15))[:, 3]).max() < 1e-30


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_exp_read_is_its_formula(lib: ArrayLibrary, k: int, d: int) -> None:
    x, _, u, _ = frames(lib, k, d)
    np.testing.assert_allclose(lib.to_numpy(exp_whole(x, k)), plain_exp(u), rtol=1e-7, atol=1e-9)


def test_fewer_landmarks_regress_in_their_own_span(lib: ArrayLibrary) -> None:
    x, _, u, _ = frames(lib, 60, 16)
    at = np.asarray(landmark_indices(x, 20))
    assert len(at) == 20
    assert (np.diff(at) > 0).all()
    k = plain_kernel(u, u[at], 60)
    want = np.linalg.solve(k.T @ k + 0.1 * plain_kernel(u[at], u[at], 60), k.T)
    np.testing.assert_allclose(lib.to_numpy(exp_whole(x, 20)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [16, 100])
def test_anchors_at_the_mean_carry_no_weight(lib: ArrayLibrary, most: int) -> None:
    x = Frame.from_anchors(lib.from_numpy(degenerate()["anchors at the mean"]))
    read = lib.to_numpy(exp_whole(x, most))
    assert read.shape == (min(60, most), 62)
    assert not read[:, 60:].any()
    assert max(np.asarray(landmark_indices(x, most))) < 60


def test_landmarks_that_coincide_do_no_harm(lib: ArrayLibrary) -> None:
    x = Frame.from_anchors(lib.from_numpy(np.repeat(degenerate()["duplicated"], 4, axis=0)))
    for most in (16, 20, 80):
        assert np.isfinite(lib.to_numpy(exp_whole(x, most))).all()


@pytest.mark.parametrize("name", ["exp", "ridge", "whitened", "irp"])
def test_an_inverse_follows_the_parameters_of_its_space(lib: ArrayLibrary, name: Any) -> None:
    x, *_ = frames(lib, 60, 16)
    known = FactorParameters(0.4, 0.3, 2, 0.6, 20)
    want = {
        "exp": exp_inverse(x, 20),
        "ridge": ridge_inverse(x, 0.4),
        "whitened": whitened_inverse(x, 0.4, 0.6),
        "irp": irp_inverse(x, 0.3, 2),
    }[name]
    got = lib.to_numpy(compute_inverse(name, x, known).matrix)
    np.testing.assert_array_equal(got, lib.to_numpy(want.matrix))
    other = lib.to_numpy(compute_inverse(name, x, FactorParameters()).matrix)
    assert got.shape != other.shape or np.abs(got - other).max() > 1e-3


@pytest.mark.parametrize("name", ["exp", "ridge", "whitened", "irp"])
def test_an_inverse_does_not_grow_with_the_number_of_anchors(name: Any) -> None:
    known = FactorParameters(landmarks=50)
    few, many = (
        compute_inverse(name, Frame.from_anchors(make_spaces(k, 16, 4, latent=16).x_anchors), known)
        for k in (600, 6000)
    )
    assert many.matrix.size <= 2 * few.matrix.size < 600 * 16


@pytest.mark.parametrize("bridge", ["exp", "ridge", "ridge-whitened"])
def test_fusing_many_anchors_takes_no_memory_for_each_pair_of_them(bridge: Any) -> None:
    k = 40_000
    x, y = (
        FittedSpace(Frame.from_anchors(a), FactorParameters(landmarks=512))
        for a in _two_spaces(k, 16)
    )
    tracemalloc.start()
    compose(bridge, x, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A kernel of all anchors with all landmarks would be twice as large.
    assert peak < 8 * k * 512 / 2


def _two_spaces(k: int, d: int) -> tuple[Floats, Floats]:
    w = make_spaces(k, d, d + 4, latent=d, n=1)
    return w.x_anchors, w.y_anchors
