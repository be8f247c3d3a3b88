"""A space as its anchors see it: mean, scale, unit anchors, and relative representations."""

from dataclasses import dataclass

from array_api_compat import array_namespace

from service.errors import InvalidInput
from service.geometry import Array

ZERO = 1e-8
"""An anchor shorter than this, relative to the longest, stands at the mean and has no direction."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A space as its anchors see it.

    Attributes:
        mean: (d,) float64, the anchors' mean.
        scale: Mean distance of the anchors from it, in the space's own unit.
        unit: (k, d) float64, rows of unit norm; a zero row where an anchor stands at the mean.
    """

    mean: Array
    scale: float
    unit: Array


def frame(anchors: Array) -> Frame:
    """The frame of a space.

    Args:
        anchors: (k, d) rows in the order of the anchor set.

    Returns:
        The frame. Scaling the anchors scales `mean` and `scale` and leaves `unit` alone; rotating
        them rotates `mean` and `unit`.

    Raises:
        InvalidInput: If the anchors are not two-dimensional or not finite, or if fewer than two
            of them differ from their mean.

    Source:
        Moschella et al., arXiv 2209.15430, section 3; centring and zero rows are ours.
    """
    xp = array_namespace(anchors)
    if anchors.ndim != 2:
        raise InvalidInput(f"expected anchors of shape (k, d), got {tuple(anchors.shape)}")
    rows = xp.astype(anchors, xp.float64)
    if not bool(xp.all(xp.isfinite(rows))):
        raise InvalidInput("expected finite anchors, got NaN or infinity")
    mean = xp.mean(rows, axis=0)
    rows = rows - mean
    norms = xp.linalg.vector_norm(rows, axis=1)
    kept = norms > ZERO * xp.max(norms)
    count = int(xp.sum(xp.astype(kept, xp.int64)))
    if count < 2:
        raise InvalidInput(
            f"expected at least 2 anchors that differ from their mean, got {count} of "
            f"{rows.shape[0]}",
            code="degenerate-anchors",
        )
    scale = float(xp.sum(norms[kept])) / count
    safe = xp.where(kept, norms, xp.ones_like(norms))
    unit = xp.where(kept[:, None], rows / safe[:, None], xp.zeros_like(rows))
    return Frame(mean, scale, unit)


def unit_rows(x: Array, mean: Array) -> Array:
    """Directions from the mean.

    Args:
        x: (n, d) rows.
        mean: (d,).

    Returns:
        (n, d) rows of unit norm; a zero row where x stands at the mean. Never NaN.
    """
    xp = array_namespace(x, mean)
    rows = x - mean
    largest = xp.max(xp.abs(rows), axis=1, keepdims=True)
    # Scaled by its largest number first, so that no square overflows or vanishes.
    rows = rows / xp.where(largest > 0, largest, xp.ones_like(largest))
    norms = xp.linalg.vector_norm(rows, axis=1, keepdims=True)
    return rows / xp.where(norms > 0, norms, xp.ones_like(norms))


def relative(x: Array, seen: Frame) -> Array:
    """The relative representation: cosines to the anchors.

    Args:
        x: (n, d) rows of the space.
        seen: The space's frame.

    Returns:
        (n, k) in [−1, 1]. Joint scaling and rotation of rows and anchors leave it unchanged.

    Source:
        Moschella et al., arXiv 2209.15430, equation 2, on rows centred by the anchors' mean.
    """
    return unit_rows(x, seen.mean) @ seen.unit.T
