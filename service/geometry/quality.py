"""What anchors tell about a space, and how far a single result can be trusted."""

from typing import Final, NamedTuple

from array_api_compat import array_namespace

from service.geometry import Array
from service.geometry.bridges import RTOL
from service.geometry.relative import Frame, unit_rows

COMPARED: Final = 1024
"""Anchors whose cosines are compared; more say nothing new and cost their square."""
NEIGHBOURS: Final = 10


class Spectrum(NamedTuple):
    """How many directions the unit anchors span, and how unevenly."""

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
        The rank at 1e-6 of the largest singular value, and the ratio of the largest to the
        smallest of those; always finite.
    """
    xp = array_namespace(seen.unit)
    k, d = seen.unit.shape
    gram = seen.unit @ seen.unit.T if k < d else seen.unit.T @ seen.unit
    values = xp.linalg.eigvalsh(gram)
    # Eigenvalues of the Gram matrix are squares: 1e-12 of them is 1e-6 of the singular values.
    kept = values[values > RTOL**2 * xp.max(values)]
    return Spectrum(int(kept.shape[0]), float(xp.sqrt(xp.max(kept) / xp.min(kept))))


def agreement(a: Frame, b: Frame) -> float:
    """Whether two spaces see the same anchors in the same order.

    Args:
        a: Frame of one space, k anchors.
        b: Frame of another, k anchors.

    Returns:
        Correlation in [−1, 1] between the cosines of all pairs of anchors, on at most 1,024 of
        them; near 0 for shuffled or foreign anchors, 0 where all cosines are equal.
    """
    xp = array_namespace(a.unit, b.unit)
    k = a.unit.shape[0]
    step = max(1, -(-k // COMPARED))
    rows = [seen.unit[::step, :] for seen in (a, b)]
    off = ~xp.eye(rows[0].shape[0], dtype=xp.bool, device=rows[0].device)
    x, y = ((unit @ unit.T)[off] for unit in rows)
    x, y = x - xp.mean(x), y - xp.mean(y)
    size = float(xp.linalg.vector_norm(x) * xp.linalg.vector_norm(y))
    if size < 1e-12:
        return 0.0
    return max(-1.0, min(1.0, float(xp.sum(x * y)) / size))


def similarity(a: Array, b: Array) -> float:
    """Mean cosine between rows of equal index; a zero row counts as 0."""
    xp = array_namespace(a, b)
    zero = xp.zeros_like(a[0, :])
    return float(xp.mean(xp.sum(unit_rows(a, zero) * unit_rows(b, zero), axis=1)))


def norms(x: Array) -> Norms:
    """Mean and standard deviation of the norms of (n, d) rows."""
    xp = array_namespace(x)
    lengths = xp.linalg.vector_norm(xp.astype(x, xp.float64), axis=1)
    return Norms(float(xp.mean(lengths)), float(xp.std(lengths)))


def neighbour_confidence(y: Array, target: Frame, neighbours: int = NEIGHBOURS) -> Array:
    """How well translated rows are covered by the target's anchors, without labels or a head.

    Args:
        y: (n, d) rows of the target space.
        target: Its frame.
        neighbours: How many of the closest anchors count.

    Returns:
        (n,) in [0, 1], the mean of the largest cosines to the anchors; 0 for a row at the mean.
    """
    xp = array_namespace(y, target.unit)
    cosines = unit_rows(xp.astype(y, xp.float64), target.mean) @ target.unit.T
    largest = xp.sort(cosines, axis=1)[:, -neighbours:]
    return xp.clip(xp.mean(largest, axis=1), 0.0, 1.0)


def head_confidence(probabilities: Array, defined: Array) -> Array:
    """The head's own confidence: its largest probability, 0 for a row without a direction."""
    xp = array_namespace(probabilities)
    largest = xp.max(probabilities, axis=1)
    return xp.where(defined, largest, xp.zeros_like(largest))
