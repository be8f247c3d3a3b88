"""Metrics of spaces and of single results: rank, agreement, similarity, norms, confidence."""

from typing import Final, NamedTuple

from array_api_compat import array_namespace, device

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, unit_rows
from stitchwork.geometry.linalg import (
    RTOL,
    evenly_spaced,
    finite_rows,
    index_array,
    largest_values,
)

MAX_ANCHORS: Final = 1024
"""Anchors whose cosines are compared: more add no information, and the cost is their square."""
NEIGHBOURS: Final = 10
MIN_DEVIATION: Final = 1e-6
"""Root mean square of the cosines' deviations below which they are float32 rounding error."""

UNIT_TOLERANCE: Final = 1e-3
"""Difference from length one that storage in float16 or bfloat16 arithmetic explains."""


class Spectrum(NamedTuple):
    """Singular values of the unit anchors.

    Attributes:
        rank: Number of singular values above 1e-6 of the largest.
        condition: The largest of these over the smallest.
    """

    rank: int
    condition: float


class NormStatistics(NamedTuple):
    """Mean and standard deviation of row norms, in the space's unit."""

    mean: float
    std: float


def spectrum(frame: Frame) -> Spectrum:
    """Rank and condition number of the unit anchors.

    Args:
        frame: The space's frame.

    Returns:
        Always finite, rank at least 1 and condition in [1, 1e6]. Scaling, rotating or moving the
        anchors leaves both unchanged.
    """
    unit = frame.unit_anchors
    xp = array_namespace(unit)
    gram = unit @ unit.T if frame.count < frame.width else unit.T @ unit
    values = xp.linalg.eigvalsh(gram)
    # Eigenvalues of the Gram matrix are squares of the singular values.
    significant = values[values > RTOL**2 * xp.max(values)]
    condition = float(xp.max(significant) / xp.min(significant)) ** 0.5
    return Spectrum(int(significant.shape[0]), condition)


def agreement(a: Frame | Array, b: Frame | Array) -> float:
    """Correlation of two spaces' anchor similarities: whether the anchors and their order agree.

    Args:
        a: Frame of one space, or its (k, d) unit anchors.
        b: Frame of another, or its (k, d) unit anchors; the widths may differ.

    Returns:
        Correlation in [−1, 1] between the cosines of all pairs of anchors, of at most 1,024
        evenly spaced ones. 1 for a space and its rotated, scaled or moved copy, near 0 for
        shuffled or different anchors, 0 where the cosines of a space are all equal. Symmetric.

    Raises:
        InvalidInputError: If the numbers of anchors differ.

    Source:
        Correlation between similarity matrices: Kriegeskorte et al., Representational Similarity
        Analysis, 2008.
    """
    a, b = (space.unit_anchors if isinstance(space, Frame) else space for space in (a, b))
    if a.shape[0] != b.shape[0]:
        raise InvalidInputError(
            f"expected anchors of one set, got {a.shape[0]} and {b.shape[0]} of them"
        )
    x, y = _deviations(a), _deviations(b)
    xp = array_namespace(x, y)
    norms = float(xp.linalg.matrix_norm(x)), float(xp.linalg.matrix_norm(y))
    if min(norms) < MIN_DEVIATION * x.shape[0]:
        return 0.0
    return max(-1.0, min(1.0, float(xp.sum(x * y)) / (norms[0] * norms[1])))


def mean_cosine(a: Array, b: Array) -> float:
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


def norm_statistics(x: Array) -> NormStatistics:
    """Mean and standard deviation of row norms.

    Args:
        x: (n, d) finite rows.

    Returns:
        Both in the space's unit, about the origin, not the anchors' mean.

    Raises:
        InvalidInputError: If there are no rows.
    """
    rows = finite_rows(x, "rows")
    if rows.shape[0] == 0:
        raise InvalidInputError("expected at least one row, got none")
    xp = array_namespace(rows)
    norms = xp.sqrt(xp.vecdot(rows, rows))
    return NormStatistics(float(xp.mean(norms)), float(xp.std(norms)))


def has_unit_rows(x: Array) -> bool:
    """Whether all rows (n, d) have length one, within 1e-3."""
    rows = finite_rows(x, "rows")
    xp = array_namespace(rows)
    norms = xp.sqrt(xp.vecdot(rows, rows))
    return bool(xp.all(xp.abs(norms - 1) < UNIT_TOLERANCE))


def row_distance(x: Array, expected: Array, scale: float) -> float:
    """The root mean square distance of rows to expected ones.

    Args:
        x: (n, d) rows.
        expected: (n, d) the rows that they should be.
        scale: The unit of the result, such as the characteristic scale of their space.

    Raises:
        InvalidInputError: If a row is not finite.
    """
    difference = finite_rows(x, "rows") - finite_rows(expected, "expected rows")
    xp = array_namespace(difference)
    return float(xp.sqrt(xp.mean(xp.vecdot(difference, difference)))) / scale


def neighbour_confidence(y: Array, target: Frame, neighbours: int = NEIGHBOURS) -> Array:
    """How close translated rows are to the target's anchors, without labels or a head.

    Args:
        y: (n, d_Y) rows of the target space, need not be unit.
        target: Its frame, on the device of the rows.
        neighbours: Number of nearest anchors to average; all of them where there are fewer.

    Returns:
        (n,) of y's dtype in [0, 1], the mean of the largest cosines to the anchors, and 0 where
        that is negative; 0 for a row at the mean. Takes O(n·k) memory.

    Raises:
        InvalidInputError: If the number of neighbours is less than 1.
    """
    if neighbours < 1:
        raise InvalidInputError(f"expected at least 1 neighbour, got {neighbours}")
    xp = array_namespace(y, target.unit_anchors)
    mean, unit = (xp.astype(array, y.dtype) for array in (target.mean, target.unit_anchors))
    cosines = unit_rows(y, mean) @ unit.T
    closest = largest_values(cosines, min(neighbours, target.count))
    return xp.clip(xp.mean(closest, axis=1), 0.0, 1.0)


def head_confidence(probabilities: Array, defined: Array) -> Array:
    """The head's own confidence.

    Args:
        probabilities: (n, c) softmax of the head's logits.
        defined: (n,) bool, False for a row without a direction.

    Returns:
        (n,) in [0, 1], the largest probability; 0 where the row is not defined.
    """
    xp = array_namespace(probabilities, defined)
    return xp.where(defined, xp.max(probabilities, axis=1), 0.0)


def joint_confidence(probabilities: Array, decisions: Array, defined: Array) -> Array:
    """The confidence of a head that decides about each label by itself.

    Args:
        probabilities: (n, c) probability of each label.
        decisions: (n, c) bool, whether each label was predicted.
        defined: (n,) bool, False for a row without a direction.

    Returns:
        (n,) in [0, 1], the product over labels of the probability of what was decided; 0 where
        the row is not defined.
    """
    xp = array_namespace(probabilities, decisions, defined)
    right = xp.where(decisions, probabilities, 1 - probabilities)
    return xp.where(defined, xp.prod(right, axis=1), 0.0)


def _deviations(unit: Array) -> Array:
    """Cosines between at most 1,024 anchors, about their mean; zero on the diagonal."""
    xp = array_namespace(unit)
    selected = index_array(evenly_spaced(unit.shape[0], MAX_ANCHORS), unit)
    rows = xp.astype(unit[selected, :], xp.float64)
    count = rows.shape[0]
    off_diagonal = 1.0 - xp.eye(count, dtype=xp.float64, device=device(unit))
    cosines = (rows @ rows.T) * off_diagonal
    return (cosines - xp.sum(cosines) / max(1, count * (count - 1))) * off_diagonal
