"""A space as its anchors see it: mean, scale, unit anchors, and relative representations."""

import math
from dataclasses import dataclass, replace
from typing import Final

from array_api_compat import array_namespace

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.linalg import Convert, check_rows, quiet

ZERO: Final = 1e-8
"""An anchor shorter than this, relative to the longest, stands at the mean and has no direction."""
CONSTANT: Final = 1e-12
"""What is smaller than this, relative to the numbers it was summed from, is rounding alone."""
LIMIT: Final = 2.0**60
"""About 1e18: a scale and numbers within it and its inverse keep float32 products finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A space as its anchors see it.

    Attributes:
        mean: (d,) float64, the anchors' mean.
        scale: The characteristic scale, mean distance of the anchors from their mean, in the
            space's own unit.
        unit: (k, d) float64, rows of unit norm; a zero row where an anchor stands at the mean.
    """

    mean: Array
    scale: float
    unit: Array

    @property
    def count(self) -> int:
        """Number of anchors, k."""
        return int(self.unit.shape[0])

    @property
    def width(self) -> int:
        """Width of the space, d."""
        return int(self.unit.shape[1])

    def on(self, convert: Convert) -> "Frame":
        """The same frame with every array converted, such as onto a device."""
        return replace(self, mean=convert(self.mean), unit=convert(self.unit))


def frame(anchors: Array) -> Frame:
    """The frame of a space.

    Args:
        anchors: (k, d) real numbers of any dtype, in the order of the anchor set.

    Returns:
        The frame. Scaling the anchors scales `mean` and `scale` and leaves `unit` alone; rotating
        them rotates `mean` and `unit`. An anchor at the mean keeps its index, as a zero row, and
        is left out of the scale.

    Raises:
        InvalidInputError: If the anchors are not two-dimensional or not finite, if fewer than two
        of
            them differ from their mean, or if they are so large, or so close together, that
            float32 cannot serve the space.

    Source:
        Moschella et al., arXiv 2209.15430, section 3; centring and zero rows are ours.
    """
    check_rows(anchors, "anchors")
    xp = array_namespace(anchors)
    if 0 in anchors.shape:
        raise InvalidInputError(
            f"expected at least 2 anchors of width 1, got shape {tuple(anchors.shape)}"
        )
    # One array of float64 is made, and worked on in place: with many anchors it is a large one.
    highest, lowest = (xp.astype(f(anchors, axis=0), xp.float64) for f in (xp.max, xp.min))
    sizes = xp.maximum(highest, -lowest)
    size = float(xp.max(sizes))
    if not math.isfinite(size):
        raise InvalidInputError("expected finite anchors, got NaN or infinity")
    if size > LIMIT:
        raise InvalidInputError(f"expected anchors of numbers up to {LIMIT:.0e}, got {size:.1e}")
    unit = xp.astype(anchors, xp.float64)
    mean = xp.mean(unit, axis=0)
    # A mean that is zero but for rounding is zero: the zero row stands at it, and tiny rows do not.
    mean = xp.where(xp.abs(mean) > CONSTANT * sizes, mean, 0.0)
    unit -= mean
    norms = xp.sqrt(xp.vecdot(unit, unit))
    kept = (norms >= ZERO * xp.max(norms)) & (norms > CONSTANT * size)
    count = int(xp.sum(xp.astype(kept, xp.int64)))
    if count < 2:
        raise InvalidInputError(
            f"expected at least 2 anchors that differ from their mean, got {count} of "
            f"{anchors.shape[0]}",
            code=ErrorCode.DEGENERATE_ANCHORS,
        )
    scale = float(xp.sum(xp.where(kept, norms, 0.0))) / count
    if scale < 1 / LIMIT:
        raise InvalidInputError(f"expected anchors at least {1 / LIMIT:.0e} apart, got {scale:.1e}")
    unit /= xp.where(kept, norms, 1.0)[:, None]
    unit[~kept, :] = 0.0
    return Frame(mean, scale, unit)


def unit_rows(x: Array, mean: Array) -> Array:
    """Directions from the mean.

    Args:
        x: (n, d), rows need not be unit.
        mean: (d,).

    Returns:
        (n, d) rows of unit norm, in the wider of the two dtypes; a zero row where x is not finite
        or stands at the mean, to within two roundings of x's own dtype. Never NaN.
    """
    xp = array_namespace(x, mean)
    if not xp.isdtype(x.dtype, "real floating"):
        x = xp.astype(x, mean.dtype)
    close = float(xp.finfo(x.dtype).eps) * float(xp.linalg.vector_norm(mean))
    unit, length = directions(x - mean)
    return xp.where((length > close)[:, None], unit, 0.0)


def directions(rows: Array) -> tuple[Array, Array]:
    """Rows as unit rows and lengths.

    Args:
        rows: (n, d).

    Returns:
        (n, d) rows of unit norm and (n,) norms; zeros for a row that is zero or not finite.
        Neither tiny nor huge numbers harm the direction; a norm may overflow to infinity.
    """
    xp = array_namespace(rows)
    if 0 in rows.shape:
        return rows, xp.sum(rows, axis=1)
    peak = xp.max(xp.abs(rows), axis=1)
    sound = xp.isfinite(peak) & (peak > 0)
    # Divided by its largest number first, so that no square overflows or vanishes.
    scaled = xp.where(sound[:, None], rows / xp.where(sound, peak, 1.0)[:, None], 0.0)
    norms = xp.linalg.vector_norm(scaled, axis=1)
    with quiet():
        lengths = xp.where(sound, peak, 0.0) * norms
    return scaled / xp.where(sound, norms, 1.0)[:, None], lengths


def relative(x: Array, seen: Frame) -> Array:
    """The relative representation: cosines to the anchors.

    Args:
        x: (n, d) rows of the space, need not be unit.
        seen: The space's frame.

    Returns:
        (n, k) in [−1, 1]. Joint scaling, rotation and translation of rows and anchors leave it
        unchanged.

    Source:
        Moschella et al., arXiv 2209.15430, section 3, on rows centred by the anchors' mean.
    """
    xp = array_namespace(x, seen.unit)
    return xp.clip(unit_rows(x, seen.mean) @ seen.unit.T, -1.0, 1.0)
