"""What anchors tell about a space, and how far a single result can be trusted."""

from typing import Final, NamedTuple

from array_api_compat import array_namespace, device

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, unit_rows
from stitchwork.geometry.linalg import RTOL, finite_rows, largest

COMPARED: Final = 1024
"""Anchors whose cosines are compared; more say nothing new and cost their square."""
NEIGHBOURS: Final = 10
CONSTANT: Final = 1e-6
"""Cosines that vary by less than this, root mean square, vary by the anchors' float32 rounding."""


class Spectrum(NamedTuple):
    """How many directions the unit anchors span, and how unevenly.

    Attributes:
        rank: Singular values above 1e-6 of the largest.
        condition: The largest of these over the smallest.
    """

    rank: int
    condition: float


class Norms(NamedTuple):
    """Mean and standard deviation of row norms, in the space's own unit."""

    mean: float
    std: float


def spectrum(seen: Frame) -> Spectrum:
    """Rank and condition number of the unit anchors.

    Args:
        seen: The space's frame.

    Returns:
        Always finite, rank at least 1 and condition in [1, 1e6]. Scaling, rotating or moving the
        anchors leaves both unchanged.
    """
    unit = seen.unit
    xp = array_namespace(unit)
    gram = unit @ unit.T if seen.count < seen.width else unit.T @ unit
    values = xp.linalg.eigvalsh(gram)
    # Eigenvalues of the Gram matrix are squares: 1e-12 of them is 1e-6 of the singular values.
    kept = values[values > RTOL**2 * xp.max(values)]
    return Spectrum(int(kept.shape[0]), float(xp.max(kept) / xp.min(kept)) ** 0.5)


def agreement(a: Frame | Array, b: Frame | Array) -> float:
    """Whether two spaces see the same anchors in the same order.

    Args:
        a: Frame of one space, or its (k, d) unit anchors.
        b: Frame of another, or its (k, d) unit anchors; the widths may differ.

    Returns:
        Correlation in [−1, 1] between the cosines of all pairs of anchors, of at most 1,024
        evenly spaced ones. 1 for a space and its rotated, scaled or moved self, near 0 for
        shuffled or foreign anchors, 0 where the cosines of a space are all equal. Symmetric.

    Raises:
        InvalidInputError: If the numbers of anchors differ.

    Source:
        Correlation between similarity matrices: Kriegeskorte et al., Representational Similarity
        Analysis, 2008.
    """
    one, other = (seen.unit if isinstance(seen, Frame) else seen for seen in (a, b))
    if one.shape[0] != other.shape[0]:
        raise InvalidInputError(
            f"expected anchors of one set, got {one.shape[0]} and {other.shape[0]} of them"
        )
    x, y = _deviations(one), _deviations(other)
    xp = array_namespace(x, y)
    spread = float(xp.linalg.matrix_norm(x)), float(xp.linalg.matrix_norm(y))
    if min(spread) < CONSTANT * x.shape[0]:
        return 0.0
    return max(-1.0, min(1.0, float(xp.sum(x * y)) / (spread[0] * spread[1])))


def similarity(a: Array, b: Array) -> float:
    """Mean cosine between rows of equal index.

    Args:
        a: (n, d), rows need not be unit.
        b: (n, d), likewise.

    Returns:
        In [−1, 1]; a zero row counts as 0. Scaling any row leaves it unchanged.

    Raises:
        InvalidInputError: If the shapes differ, or there are no rows.
    """
    if tuple(a.shape) != tuple(b.shape) or a.ndim != 2 or a.shape[0] == 0:
        raise InvalidInputError(
            f"expected rows of one shape (n, d), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = finite_rows(a, "rows"), finite_rows(b, "rows")
    xp = array_namespace(a, b)
    zero = xp.zeros_like(a[0, :])
    return float(xp.mean(xp.vecdot(unit_rows(a, zero), unit_rows(b, zero))))


def norms(x: Array) -> Norms:
    """Mean and standard deviation of row norms.

    Args:
        x: (n, d) finite rows.

    Returns:
        Both in the space's own unit, about the origin, not the anchors' mean.

    Raises:
        InvalidInputError: If there are no rows.
    """
    rows = finite_rows(x, "rows")
    if rows.shape[0] == 0:
        raise InvalidInputError("expected at least one row, got none")
    xp = array_namespace(rows)
    lengths = xp.sqrt(xp.vecdot(rows, rows))
    return Norms(float(xp.mean(lengths)), float(xp.std(lengths)))


def neighbour_confidence(y: Array, target: Frame, neighbours: int = NEIGHBOURS) -> Array:
    """How well translated rows are covered by the target's anchors, without labels or a head.

    Args:
        y: (n, d_Y) rows of the target space, need not be unit.
        target: Its frame, on the device of the rows.
        neighbours: How many of the closest anchors count; all of them where there are fewer.

    Returns:
        (n,) of y's dtype in [0, 1], the mean of the largest cosines to the anchors, and 0 where
        that is negative; 0 for a row at the mean. Takes O(n·k) memory.

    Raises:
        InvalidInputError: If no neighbour is asked for.
    """
    if neighbours < 1:
        raise InvalidInputError(f"expected at least 1 neighbour, got {neighbours}")
    xp = array_namespace(y, target.unit)
    mean, unit = xp.astype(target.mean, y.dtype), xp.astype(target.unit, y.dtype)
    cosines = unit_rows(y, mean) @ unit.T
    closest = largest(cosines, min(neighbours, target.count))
    return xp.clip(xp.mean(closest, axis=1), 0.0, 1.0)


def head_confidence(probabilities: Array, defined: Array) -> Array:
    """The head's own confidence.

    Args:
        probabilities: (n, c) softmax of the head's scores.
        defined: (n,) bool, False for a row without a direction.

    Returns:
        (n,) in [0, 1], the largest probability; 0 where the row is not defined.
    """
    xp = array_namespace(probabilities, defined)
    return xp.where(defined, xp.max(probabilities, axis=1), 0.0)


def _deviations(unit: Array) -> Array:
    """Cosines between at most 1,024 anchors, about their mean; zero on the diagonal."""
    xp = array_namespace(unit)
    k = unit.shape[0]
    count = min(k, COMPARED)
    rows = xp.arange(count, device=device(unit)) * k // count
    some = xp.astype(unit[rows, :], xp.float64)
    off = 1.0 - xp.eye(count, dtype=xp.float64, device=device(unit))
    cosines = (some @ some.T) * off
    return (cosines - xp.sum(cosines) / max(1, count * (count - 1))) * off
