"""Frames: a space's anchors as mean, scale and unit directions; relative representations."""

import math
from dataclasses import dataclass, replace
from typing import Final, Self

from array_api_compat import array_namespace

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.linalg import Convert, check_rows, suppress_warnings

ZERO_NORM: Final = 1e-8
"""An anchor closer to the mean than this, relative to the farthest one, has no direction."""
ROUNDING: Final = 1e-12
"""A sum smaller than this, relative to its terms, is rounding error."""
MAX_SIZE: Final = 2.0**60
"""About 1e18. Numbers up to this, and scales down to its inverse, keep float32 products finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A space's anchors as mean, scale and unit directions.

    Attributes:
        mean: (d,) float64, the anchors' mean, in the space's unit.
        scale: Mean distance of the anchors from their mean, in the space's unit.
        unit_anchors: (k, d) float64, rows of unit norm; a zero row for an anchor at the mean.
    """

    mean: Array
    scale: float
    unit_anchors: Array

    @classmethod
    def from_anchors(cls, anchors: Array) -> Self:
        """The frame of a space.

        Args:
            anchors: (k, d) real numbers of any dtype, in the order of the anchor set.

        Returns:
            The frame. Scaling the anchors scales `mean` and `scale` and leaves `unit_anchors`
            unchanged; rotating them rotates `mean` and `unit_anchors`. An anchor at the mean keeps
            its index, as a zero row, and is left out of the scale.

        Raises:
            InvalidInputError: If the anchors are not two-dimensional or not finite, if fewer than
                two of them differ from their mean, or if they are so large, or so close together,
                that float32 cannot serve the space.

        Source:
            Moschella et al., arXiv 2209.15430, section 3; centring and zero rows are ours.
        """
        check_rows(anchors, "anchors")
        xp = array_namespace(anchors)
        if 0 in anchors.shape:
            raise InvalidInputError(
                f"expected at least 2 anchors of width 1, got shape {tuple(anchors.shape)}"
            )
        # Only one float64 array is allocated and updated in place: with many anchors it is large.
        maxima, minima = (xp.astype(f(anchors, axis=0), xp.float64) for f in (xp.max, xp.min))
        sizes = xp.maximum(maxima, -minima)
        size = float(xp.max(sizes))
        if not math.isfinite(size):
            raise InvalidInputError("expected finite anchors, got NaN or infinity")
        if size > MAX_SIZE:
            raise InvalidInputError(
                f"expected anchors of numbers up to {MAX_SIZE:.0e}, got {size:.1e}"
            )
        unit = xp.astype(anchors, xp.float64)
        mean = xp.mean(unit, axis=0)
        # A mean that is zero but for rounding is set to zero, so that a zero anchor is at the mean
        # and tiny anchors are not.
        mean = xp.where(xp.abs(mean) > ROUNDING * sizes, mean, 0.0)
        unit -= mean
        norms = xp.sqrt(xp.vecdot(unit, unit))
        nonzero = (norms >= ZERO_NORM * xp.max(norms)) & (norms > ROUNDING * size)
        count = int(xp.sum(xp.astype(nonzero, xp.int64)))
        if count < 2:
            raise InvalidInputError(
                f"expected at least 2 anchors that differ from their mean, got {count} of "
                f"{anchors.shape[0]}",
                code=ErrorCode.DEGENERATE_ANCHORS,
            )
        scale = float(xp.sum(xp.where(nonzero, norms, 0.0))) / count
        if scale < 1 / MAX_SIZE:
            raise InvalidInputError(
                f"expected anchors at least {1 / MAX_SIZE:.0e} apart, got {scale:.1e}"
            )
        unit /= xp.where(nonzero, norms, 1.0)[:, None]
        unit[~nonzero, :] = 0.0
        return cls(mean, scale, unit)

    @property
    def count(self) -> int:
        """Number of anchors, k."""
        return int(self.unit_anchors.shape[0])

    @property
    def width(self) -> int:
        """Width of the space, d."""
        return int(self.unit_anchors.shape[1])

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted, such as moved to a device."""
        return replace(self, mean=convert(self.mean), unit_anchors=convert(self.unit_anchors))


def nonzero_anchors(frame: Frame) -> Array:
    """(k,) bool, False for an anchor at the mean, whose row is zero."""
    return array_namespace(frame.unit_anchors).any(frame.unit_anchors != 0, axis=1)


def unit_rows(x: Array, mean: Array) -> Array:
    """Directions of rows from a mean.

    Args:
        x: (n, d), rows need not be unit.
        mean: (d,).

    Returns:
        (n, d) rows of unit norm, in the wider of the two dtypes; a zero row where x is not finite
        or equals the mean to within two roundings of its own dtype. Never NaN.
    """
    xp = array_namespace(x, mean)
    if not xp.isdtype(x.dtype, "real floating"):
        x = xp.astype(x, mean.dtype)
    min_norm = float(xp.finfo(x.dtype).eps) * float(xp.linalg.vector_norm(mean))
    unit, norms = normalise(x - mean)
    return xp.where((norms > min_norm)[:, None], unit, 0.0)


def normalise(rows: Array) -> tuple[Array, Array]:
    """Unit rows and norms.

    Args:
        rows: (n, d).

    Returns:
        (n, d) rows of unit norm and (n,) norms; zeros for a row that is zero or not finite. The
        direction is exact for tiny and huge numbers too; a norm may overflow to infinity.
    """
    xp = array_namespace(rows)
    if 0 in rows.shape:
        return rows, xp.sum(rows, axis=1)
    peak = xp.max(xp.abs(rows), axis=1)
    valid = xp.isfinite(peak) & (peak > 0)
    # Divided by the largest number first, so that no square overflows or underflows.
    scaled = xp.where(valid[:, None], rows / xp.where(valid, peak, 1.0)[:, None], 0.0)
    scaled_norms = xp.linalg.vector_norm(scaled, axis=1)
    with suppress_warnings():
        norms = xp.where(valid, peak, 0.0) * scaled_norms
    return scaled / xp.where(valid, scaled_norms, 1.0)[:, None], norms


def relative_representation(x: Array, frame: Frame) -> Array:
    """The relative representation of rows: cosines to the anchors.

    Args:
        x: (n, d) rows of the space, need not be unit.
        frame: The space's frame.

    Returns:
        (n, k) in [−1, 1]. Joint scaling, rotation and translation of rows and anchors leave it
        unchanged.

    Source:
        Moschella et al., arXiv 2209.15430, section 3, on rows centred by the anchors' mean.
    """
    xp = array_namespace(x, frame.unit_anchors)
    return xp.clip(unit_rows(x, frame.mean) @ frame.unit_anchors.T, -1.0, 1.0)
