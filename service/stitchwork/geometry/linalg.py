"""The few steps that the array API standard leaves out, each in one place."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_namespace
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array

Convert: TypeAlias = Callable[[Array], Array]
"""Takes an array to another library or device, keeping its shape."""

RTOL: Final = 1e-6
"""Singular values below this, relative to the largest, are noise: encoders are often deficient."""


def check_rows(rows: Array, name: str) -> None:
    """Refuse what are no rows of numbers.

    Args:
        rows: (n, d) real numbers of any dtype.
        name: What the caller calls them.

    Raises:
        InvalidInputError: If there are not two axes, or the dtype is not of real numbers.
    """
    if rows.ndim != 2:
        raise InvalidInputError(f"expected {name} of shape (n, d), got {tuple(rows.shape)}")
    if not array_namespace(rows).isdtype(rows.dtype, ("real floating", "integral")):
        raise InvalidInputError(f"expected {name} of real numbers, got {rows.dtype}")


def finite_rows(rows: Array, name: str) -> Array:
    """Rows that a fit may start from.

    Args:
        rows: (n, d) real numbers of any dtype.
        name: What the caller calls them.

    Returns:
        (n, d) float64, the same numbers.

    Raises:
        InvalidInputError: If there are not two axes, the dtype is not of real numbers, or a number
        is
            NaN or infinite.
    """
    check_rows(rows, name)
    xp = array_namespace(rows)
    wide = xp.astype(rows, xp.float64)
    if not bool(xp.all(xp.isfinite(wide))):
        raise InvalidInputError(f"expected finite {name}, got NaN or infinity")
    return wide


def solve_spd(matrix: Array, right: Array) -> Array:
    """Solves a symmetric positive definite system by Cholesky, which the standard cannot.

    Args:
        matrix: (m, m) symmetric positive definite; may be used up.
        right: (m, n).

    Returns:
        (m, n) of their dtype, with matrix @ result = right.
    """
    xp = array_namespace(matrix, right)
    if is_numpy_namespace(xp):
        # Takes long to import, and a process that only serves maps never fits one.
        from scipy.linalg import cho_factor, cho_solve

        # Transposed, which a symmetric matrix does not notice, it need not be copied for LAPACK.
        factor = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        return cho_solve(factor, right, check_finite=False)
    if hasattr(xp, "cholesky_solve"):
        return xp.cholesky_solve(right, xp.linalg.cholesky(matrix))
    return xp.linalg.solve(matrix, right)


def cholesky(matrix: Array) -> Array:
    """The Cholesky factor of a matrix.

    Args:
        matrix: (m, m) symmetric positive definite; may be used up.

    Returns:
        (m, m) L, lower triangular, with L @ L.T the matrix.
    """
    xp = array_namespace(matrix)
    if is_numpy_namespace(xp):
        from scipy.linalg import cholesky as factor

        # By columns, as LAPACK reads it, it is the upper one: in place, in a third of numpy's time.
        return factor(matrix.T, overwrite_a=True, check_finite=False).T
    return xp.linalg.cholesky(matrix)


def solve_factored(lower: Array, right: Array) -> Array:
    """Solves a system whose Cholesky factor is known, which the standard cannot.

    Args:
        lower: (m, m) lower triangular L.
        right: (m, n).

    Returns:
        (m, n), with L @ L.T @ result = right.
    """
    xp = array_namespace(lower, right)
    if is_numpy_namespace(xp):
        from scipy.linalg import cho_solve

        # What is lower by rows is upper by columns, as LAPACK reads it without a copy.
        return cho_solve((lower.T, False), right, check_finite=False)
    if hasattr(xp, "cholesky_solve"):
        return xp.cholesky_solve(right, lower)
    return solve_triangular(lower, solve_triangular(lower, right), transposed=True)


def solve_triangular(lower: Array, right: Array, *, transposed: bool = False) -> Array:
    """Solves a lower triangular system, which the standard cannot.

    Args:
        lower: (m, m) lower triangular L.
        right: (m, n).
        transposed: Solve with Lᵀ instead.

    Returns:
        (m, n) of their dtype, with L @ result = right, or Lᵀ @ result = right.
    """
    xp = array_namespace(lower, right)
    if is_numpy_namespace(xp):
        from scipy.linalg import solve_triangular as solve

        return solve(lower, right, lower=True, trans="T" if transposed else "N", check_finite=False)
    matrix = lower.T if transposed else lower
    if hasattr(xp.linalg, "solve_triangular"):
        return xp.linalg.solve_triangular(matrix, right, upper=transposed)
    return xp.linalg.solve(matrix, right)


def largest(x: Array, count: int) -> Array:
    """The largest numbers of each row, without sorting the rest where the library can.

    Args:
        x: (n, m).
        count: How many, 1 to m.

    Returns:
        (n, count) in no order.
    """
    xp = array_namespace(x)
    if is_numpy_namespace(xp):
        return np.partition(x, -count, axis=1)[:, -count:]
    if hasattr(xp, "topk"):
        return xp.topk(x, count, dim=1).values
    return xp.sort(x, axis=1)[:, -count:]


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """Which of `count` rows stand for all: all of few, `most` evenly spaced ones of many."""
    used = min(count, most)
    return np.arange(used) * count // used


def indices(picked: Array, like: Array) -> Array:
    """Numpy indices as indices of the library and on the device of `like`."""
    return array_namespace(like).asarray(picked, device=device(like))


def host(x: Array) -> NDArray[Any]:
    """A small array as numpy's, wherever it is."""
    return np.asarray(x.tolist())


def quiet() -> np.errstate:
    """A context for arithmetic whose overflow is looked for afterwards; only numpy warns of it."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
