"""Inverses and factors against plain formulas and against the regressions they equal."""

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
    MIN_SHRINKAGE,
    SHAPES,
    degenerate_anchors,
    exp_read_matrix,
    frames,
    irp_write_matrix,
    plain_exp_read,
    plain_irp_write,
    plain_kernel,
    plain_oas,
    plain_ridge_read,
    plain_ridge_read_dual,
    plain_whitened_write,
    ridge_read_matrix,
    whitened_write_matrix,
)


@pytest.mark.parametrize(("k", "d"), [(5, 16), (16, 16), (60, 16), (500, 16)])
def test_oas_shrinkage_equals_scikit_learn(lib: ArrayLibrary, k: int, d: int) -> None:
    *_, u, _ = frames(lib, k, d)
    _, known = sklearn.covariance.oas(u, assume_centered=True)
    assert oas_shrinkage(lib.from_numpy(u.T @ u / k), k) == pytest.approx(known, rel=1e-9)
    assert oas_shrinkage(lib.from_numpy(7 * u.T @ u / k), k) == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize(("covariance", "samples"), [(np.eye(4) / 4, 100), (np.ones((1, 1)), 5)])
def test_oas_shrinkage_of_isotropic_anchors_is_one(
    lib: ArrayLibrary, covariance: Floats, samples: int
) -> None:
    assert oas_shrinkage(lib.from_numpy(covariance), samples) == 1.0


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("shrinkage", [None, 1e-5, 0.01, 0.5, 1.0])
def test_ridge_read_equals_primal_and_dual_formulas(
    lib: ArrayLibrary, k: int, d: int, shrinkage: float | None
) -> None:
    x, _, u, _ = frames(lib, k, d)
    rho = max(plain_oas(u), MIN_SHRINKAGE) if shrinkage is None else shrinkage
    actual = ridge_read_matrix(x, shrinkage)
    assert lib.to_numpy(actual).dtype == np.float64
    np.testing.assert_allclose(lib.to_numpy(actual), plain_ridge_read(u, rho), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(
        lib.to_numpy(actual), plain_ridge_read_dual(u, rho), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.5])
@pytest.mark.parametrize("k", [10, 40])
def test_zero_anchors_count_in_k_and_not_in_the_trace(
    lib: ArrayLibrary, k: int, shrinkage: float | None
) -> None:
    *_, u, _ = frames(lib, k, 16)
    u[[0, 3, 4]] = 0
    frame = Frame(lib.from_numpy(np.zeros(16)), 1.0, lib.from_numpy(u))
    rho = max(plain_oas(u), MIN_SHRINKAGE) if shrinkage is None else shrinkage
    expected = plain_ridge_read(u, rho) if rho else np.linalg.pinv(u, rcond=1e-6)
    np.testing.assert_allclose(
        lib.to_numpy(ridge_read_matrix(frame, shrinkage)), expected, atol=1e-9
    )


def test_ridge_of_few_anchors_allocates_no_matrix_of_the_spaces_width() -> None:
    frame = Frame.from_anchors(make_spaces(6, 1500, 4).x_anchors)
    tracemalloc.start()
    ridge_read_matrix(frame, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1500 * 1500


def test_default_shrinkage_is_the_larger_of_oas_and_minimum() -> None:
    few, many = (
        Frame.from_anchors(make_spaces(9, 16, 4).x_anchors),
        Frame.from_anchors(make_spaces(900, 16, 4).x_anchors),
    )
    assert (
        plain_oas(np.asarray(few.unit_anchors))
        > MIN_SHRINKAGE
        > plain_oas(np.asarray(many.unit_anchors))
    )
    np.testing.assert_allclose(
        ridge_read_matrix(few, None),
        plain_ridge_read(few.unit_anchors, plain_oas(few.unit_anchors)),
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        ridge_read_matrix(many, None), plain_ridge_read(many.unit_anchors, MIN_SHRINKAGE), rtol=1e-9
    )


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("rho", [0.01, MIN_SHRINKAGE, 0.9])
def test_ridge_equals_ridge_regression_on_both_spaces(
    lib: ArrayLibrary, k: int, d: int, rho: float
) -> None:
    x, y, u, v = frames(lib, k, d)
    alpha = rho / (1 - rho) * np.trace(u.T @ u) / d
    regression = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(u, v)
    actual = (1 - rho) * lib.to_numpy(ridge_read_matrix(x, rho) @ y.unit_anchors)
    np.testing.assert_allclose(actual, regression.coef_.T, atol=1e-9)


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_ridge_without_shrinkage_is_the_pseudo_inverse(lib: ArrayLibrary, k: int, d: int) -> None:
    x, _, u, _ = frames(lib, k, d)
    expected = np.linalg.pinv(u, rcond=1e-6)
    np.testing.assert_allclose(
        lib.to_numpy(ridge_read_matrix(x, 0.0)), expected, atol=1e-9 * np.abs(expected).max()
    )
    # The two methods agree at the shrinkage where one replaces the other.
    np.testing.assert_allclose(
        lib.to_numpy(ridge_read_matrix(x, 0.999999e-6)),
        lib.to_numpy(ridge_read_matrix(x, 1e-6)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("case", degenerate_anchors())
@pytest.mark.parametrize("shrinkage", [None, 0.0, 1e-300, 1e-12, 1e-6, 1.0])
def test_ridge_of_degenerate_anchors_is_finite(
    lib: ArrayLibrary, case: str, shrinkage: float | None
) -> None:
    frame = Frame.from_anchors(lib.from_numpy(degenerate_anchors()[case]))
    read = lib.to_numpy(ridge_read_matrix(frame, shrinkage))
    assert np.isfinite(read).all()
    # A significant direction is stretched by at most 1e6, amplified noise by far more.
    assert np.abs(read).max() < 1e6
    at_mean = ~np.any(lib.to_numpy(frame.unit_anchors), axis=1)
    assert not read[:, at_mean].any()


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_unpruned_irp_is_the_transpose_of_the_regression_back_from_the_target(
    lib: ArrayLibrary, k: int, d: int
) -> None:
    x, y, u, v = frames(lib, k, d)
    back, *_ = np.linalg.lstsq(v, u, rcond=1e-6)
    actual = lib.to_numpy(x.unit_anchors.T @ irp_write_matrix(y, 0.0, 1))
    np.testing.assert_allclose(actual, back.T, atol=1e-8)


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize("delta", [0.3, 0.6])
def test_irp_ensemble_is_the_mean_of_its_prunings(
    lib: ArrayLibrary, k: int, d: int, delta: float
) -> None:
    _, y, _, v = frames(lib, k, d)
    actual = irp_write_matrix(y, delta, 5)
    assert lib.to_numpy(actual).dtype == np.float64
    np.testing.assert_allclose(
        lib.to_numpy(actual), plain_irp_write(v, delta, list(range(5))), atol=1e-9
    )
    parts = [plain_irp_write(v, delta, [seed]) for seed in range(5)]
    np.testing.assert_allclose(lib.to_numpy(actual), np.mean(parts, axis=0), atol=1e-9)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3 or k < d


def test_irp_does_not_invert_negligible_directions(lib: ArrayLibrary) -> None:
    anchors = degenerate_anchors()["almost rank-deficient"]
    write = lib.to_numpy(irp_write_matrix(Frame.from_anchors(lib.from_numpy(anchors)), 0.0, 1))
    assert np.linalg.matrix_rank(write, tol=1e-3) == 3
    assert np.abs(write).max() < 10


@pytest.mark.parametrize(("k", "d"), SHAPES)
@pytest.mark.parametrize(("shrinkage", "power"), [(None, 0.15), (0.5, 0.5), (1.0, 0.3)])
def test_whitened_write_equals_its_formula_in_both_forms(
    lib: ArrayLibrary, k: int, d: int, shrinkage: float | None, power: float
) -> None:
    x, _, u, _ = frames(lib, k, d)
    rho = max(plain_oas(u), MIN_SHRINKAGE) if shrinkage is None else shrinkage
    actual = lib.to_numpy(whitened_write_matrix(x, shrinkage, power))
    np.testing.assert_allclose(actual, plain_whitened_write(u, rho, power), rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(
        lib.to_numpy(whitened_write_matrix(x, shrinkage, 0)), lib.to_numpy(x.unit_anchors)
    )


def test_full_whitening_equalises_the_anchors_span(lib: ArrayLibrary) -> None:
    x, *_ = frames(lib, 60, 16)
    values = np.linalg.svd(lib.to_numpy(whitened_write_matrix(x, 0.0, 0.5)), compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    flat = Frame.from_anchors(lib.from_numpy(degenerate_anchors()["rank-deficient"]))
    assert np.abs(lib.to_numpy(whitened_write_matrix(flat, 0.0, 0.5))).max() < 10


@pytest.mark.parametrize("k", [9, 60])
def test_whitening_keeps_a_constant_dimension_constant(lib: ArrayLibrary, k: int) -> None:
    anchors = make_spaces(k, 16, 4).x_anchors
    anchors[:, 3] *= 1e-33
    x = Frame.from_anchors(lib.from_numpy(anchors))
    assert np.abs(lib.to_numpy(whitened_write_matrix(x, None, 0.15))[:, 3]).max() < 1e-30


@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_exp_read_equals_its_formula(lib: ArrayLibrary, k: int, d: int) -> None:
    x, _, u, _ = frames(lib, k, d)
    np.testing.assert_allclose(
        lib.to_numpy(exp_read_matrix(x, k)), plain_exp_read(u), rtol=1e-7, atol=1e-9
    )


def test_exp_with_fewer_landmarks_regresses_in_their_span(lib: ArrayLibrary) -> None:
    x, _, u, _ = frames(lib, 60, 16)
    at = np.asarray(landmark_indices(x, 20))
    assert len(at) == 20
    assert (np.diff(at) > 0).all()
    k = plain_kernel(u, u[at], 60)
    expected = np.linalg.solve(k.T @ k + 0.1 * plain_kernel(u[at], u[at], 60), k.T)
    np.testing.assert_allclose(lib.to_numpy(exp_read_matrix(x, 20)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_landmarks", [16, 100])
def test_exp_ignores_anchors_at_the_mean(lib: ArrayLibrary, max_landmarks: int) -> None:
    x = Frame.from_anchors(lib.from_numpy(degenerate_anchors()["anchors at the mean"]))
    read = lib.to_numpy(exp_read_matrix(x, max_landmarks))
    assert read.shape == (min(60, max_landmarks), 62)
    assert not read[:, 60:].any()
    assert max(np.asarray(landmark_indices(x, max_landmarks))) < 60


def test_exp_with_coinciding_landmarks_is_finite(lib: ArrayLibrary) -> None:
    x = Frame.from_anchors(lib.from_numpy(np.repeat(degenerate_anchors()["duplicated"], 4, axis=0)))
    for max_landmarks in (16, 20, 80):
        assert np.isfinite(lib.to_numpy(exp_read_matrix(x, max_landmarks))).all()


@pytest.mark.parametrize("name", ["exp", "ridge", "whitened", "irp"])
def test_compute_inverse_uses_the_parameters_of_the_space(lib: ArrayLibrary, name: Any) -> None:
    x, *_ = frames(lib, 60, 16)
    known = FactorParameters(0.4, 0.3, 2, 0.6, 20)
    expected = {
        "exp": exp_inverse(x, 20),
        "ridge": ridge_inverse(x, 0.4),
        "whitened": whitened_inverse(x, 0.4, 0.6),
        "irp": irp_inverse(x, 0.3, 2),
    }[name]
    actual = lib.to_numpy(compute_inverse(name, x, known).matrix)
    np.testing.assert_array_equal(actual, lib.to_numpy(expected.matrix))
    other = lib.to_numpy(compute_inverse(name, x, FactorParameters()).matrix)
    assert actual.shape != other.shape or np.abs(actual - other).max() > 1e-3


@pytest.mark.parametrize("name", ["exp", "ridge", "whitened", "irp"])
def test_inverse_does_not_grow_with_the_number_of_anchors(name: Any) -> None:
    known = FactorParameters(landmarks=50)
    few, many = (
        compute_inverse(name, Frame.from_anchors(make_spaces(k, 16, 4, latent=16).x_anchors), known)
        for k in (600, 6000)
    )
    assert many.matrix.size <= 2 * few.matrix.size < 600 * 16


@pytest.mark.parametrize("bridge", ["exp", "ridge", "ridge-whitened"])
def test_composing_many_anchors_allocates_no_matrix_of_all_pairs(bridge: Any) -> None:
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
