"""Array operations that the array API standard lacks, for numpy and torch."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_namespace
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array

Convert: TypeAlias = Callable[[Array], Array]
"""Converts an array to another library, dtype or device and keeps its shape."""

RTOL: Final = 1e-6
"""Singular values below this, relative to the largest, are noise: embeddings are often
rank-deficient."""


def check_rows(rows: Array, name: str) -> None:
    """Raise unless an array is a matrix of real numbers.

    Args:
        rows: (n, d) real numbers of any dtype.
        name: What error messages call the array.

    Raises:
        InvalidInputError: If the array is not two-dimensional or its dtype is not real.
    """
    if rows.ndim != 2:
        raise InvalidInputError(f"expected {name} of shape (n, d), got {tuple(rows.shape)}")
    if not array_namespace(rows).isdtype(rows.dtype, ("real floating", "integral")):
        raise InvalidInputError(f"expected {name} of real numbers, got {rows.dtype}")


def finite_rows(rows: Array, name: str) -> Array:
    """Rows as finite float64.

    Args:
        rows: (n, d) real numbers of any dtype.
        name: What error messages call the array.

    Returns:
        (n, d) float64, the same numbers.

    Raises:
        InvalidInputError: If the array is not two-dimensional, its dtype is not real, or a number
            is NaN or infinite.
    """
    check_rows(rows, name)
    xp = array_namespace(rows)
    result = xp.astype(rows, xp.float64)
    if not bool(xp.all(xp.isfinite(result))):
        raise InvalidInputError(f"expected finite {name}, got NaN or infinity")
    return result


def solve_spd(matrix: Array, right: Array) -> Array:
    """Solve a symmetric positive definite system by Cholesky decomposition.

    Args:
        matrix: (m, m) symmetric positive definite; may be overwritten.
        right: (m, n).

    Returns:
        (m, n) of the same dtype, with matrix @ result = right.
    """
    xp = array_namespace(matrix, right)
    if is_numpy_namespace(xp):
        # Imported here because scipy.linalg is slow to import and serving does not need it.
        from scipy.linalg import cho_factor, cho_solve

        # The transpose of a symmetric matrix is itself, and LAPACK needs no copy of it.
        factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        return cho_solve(factor, right, check_finite=False)
    if hasattr(xp, "cholesky_solve"):
        return xp.cholesky_solve(right, xp.linalg.cholesky(matrix))
    return xp.linalg.solve(matrix, right)


def cholesky(matrix: Array) -> Array:
    """The Cholesky factor of a matrix.

    Args:
        matrix: (m, m) symmetric positive definite; may be overwritten.

    Returns:
        (m, m) L, lower triangular, with L @ L.T the matrix.
    """
    xp = array_namespace(matrix)
    if is_numpy_namespace(xp):
        from scipy.linalg import cholesky as scipy_cholesky

        # The upper factor of the transpose, in LAPACK's column order, is computed in place: this
        # takes a third of the time of numpy.linalg.cholesky.
        return scipy_cholesky(matrix.T, overwrite_a=True, check_finite=False).T
    return xp.linalg.cholesky(matrix)


def cholesky_solve(lower: Array, right: Array) -> Array:
    """Solve a system from its Cholesky factor.

    Args:
        lower: (m, m) lower triangular L.
        right: (m, n).

    Returns:
        (m, n), with L @ L.T @ result = right.
    """
    xp = array_namespace(lower, right)
    if is_numpy_namespace(xp):
        from scipy.linalg import cho_solve

        # A lower factor in row order is an upper one in LAPACK's column order: no copy is made.
        return cho_solve((lower.T, False), right, check_finite=False)
    if hasattr(xp, "cholesky_solve"):
        return xp.cholesky_solve(right, lower)
    return solve_triangular(lower, solve_triangular(lower, right), transposed=True)


def solve_triangular(lower: Array, right: Array, *, transposed: bool = False) -> Array:
    """Solve a lower triangular system.

    Args:
        lower: (m, m) lower triangular L.
        right: (m, n).
        transposed: Solve with Lᵀ instead.

    Returns:
        (m, n) of the same dtype, with L @ result = right, or Lᵀ @ result = right.
    """
    xp = array_namespace(lower, right)
    if is_numpy_namespace(xp):
        from scipy.linalg import solve_triangular as solve

        return solve(lower, right, lower=True, trans="T" if transposed else "N", check_finite=False)
    matrix = lower.T if transposed else lower
    if hasattr(xp.linalg, "solve_triangular"):
        return xp.linalg.solve_triangular(matrix, right, upper=transposed)
    return xp.linalg.solve(matrix, right)


def largest_values(x: Array, count: int) -> Array:
    """The largest values of each row, by partial sort where the library has one.

    Args:
        x: (n, m).
        count: How many, 1 to m.

    Returns:
        (n, count) in no particular order.
    """
    xp = array_namespace(x)
    if is_numpy_namespace(xp):
        return np.partition(x, -count, axis=1)[:, -count:]
    if hasattr(xp, "topk"):
        return xp.topk(x, count, dim=1).values
    return xp.sort(x, axis=1)[:, -count:]


def erf(x: Array) -> Array:
    """The error function, elementwise, of a floating-point array in its own dtype."""
    xp = array_namespace(x)
    if hasattr(xp, "special"):
        return xp.special.erf(x)
    # Imported here because serving heads without GELU does not need it.
    from scipy.special import erf as scipy_erf

    return scipy_erf(x)


def evenly_spaced(count: int, max_count: int) -> NDArray[np.int64]:
    """Indices of at most `max_count` of `count` items: all, or evenly spaced ones.

    Returns:
        (min(count, max_count),) int64, ascending, starting at 0.
    """
    used = min(count, max_count)
    return np.arange(used) * count // used


def index_array(indices: Array, like: Array) -> Array:
    """Numpy indices as an array of the library and on the device of `like`."""
    return array_namespace(like).asarray(indices, device=device(like))


def to_numpy(x: Array) -> NDArray[Any]:
    """A small array of any library and device as a numpy array."""
    return np.asarray(x.tolist())


def suppress_warnings() -> np.errstate:
    """A context without numpy's floating-point warnings, for arithmetic checked afterwards."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
