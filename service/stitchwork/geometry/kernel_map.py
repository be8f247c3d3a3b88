"""The map of the `exp` bridge: a kernel with landmarks, then a matrix."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import RTOL, suppress_warnings
from stitchwork.geometry.maps import (
    ACCURATE_GAIN,
    SQUARE_RANGE,
    AnchorMap,
    Translation,
    float32_rows,
    placement,
    recompute,
)

KERNEL_BLOCK: Final = 512
"""Rows whose kernel values are in memory at a time: small enough that the exponential is taken
close to the core, large enough for the products to run at full speed."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class KernelMap(AnchorMap):
    """y = s_Y · normalise(exp(γ (unit(x) Uₘᵀ − 1)) M) + mu_Y: two products, an exponential between.

    Attributes:
        landmarks: Uₘᵀ, (d_X, m) float32 unit anchors of the source.
        weights: M = A_X W_Y, (m, d_Y) float32.
        sharpness: γ.
    """

    MATRICES: ClassVar[tuple[str, ...]] = ("landmarks", "weights")

    landmarks: Array
    weights: Array
    sharpness: float

    @classmethod
    def from_weights(
        cls, landmarks: Array, sharpness: float, weights: Array, source: Frame, target: Frame
    ) -> Self:
        """From (m, d_X) unit anchors, γ, (m, d_Y) float64 M, and the frames of both spaces."""
        xp = array_namespace(weights)
        return cls(
            # Copied into the memory order that the product reads.
            landmarks=xp.asarray(xp.astype(landmarks, xp.float32).T, copy=True),
            weights=xp.astype(weights, xp.float32),
            sharpness=sharpness,
            **placement(weights, source, target),
        )

    def apply(self, x: Array) -> Translation:
        """Rows of the source as rows of the target.

        Args:
            x: (n, d_X) float32, need not be unit; other dtypes are converted to float32.

        Returns:
            As `LinearMap.apply`. Uses O(m) more memory for each of at most 512 rows at a time.

        Raises:
            InvalidInputError: If the rows do not have the source's width.
        """
        x = float32_rows(x, self.source_width)
        result = _allocate(x, self.target_width)
        for start in range(0, x.shape[0], KERNEL_BLOCK):
            block = slice(start, start + KERNEL_BLOCK)
            part = Translation(result.rows[block, :], result.defined[block])
            self._apply_block(x[block, :], part)
        return result

    def _apply_block(self, x: Array, result: Translation) -> None:
        xp = array_namespace(x, self.weights)
        with suppress_warnings():
            centred = x - self.origin.parts[0, :]
            centred -= self.origin.parts[1, :]
            squares = xp.vecdot(centred, centred)
            accurate = (squares > SQUARE_RANGE[0]) & (squares < SQUARE_RANGE[1])
            accurate &= squares > (ACCURATE_GAIN * self.origin.norm) ** 2
            # Scaled before the product, which is the wider array.
            centred *= (self.sharpness / xp.sqrt(squares))[:, None]
            self._place(centred @ self.landmarks, accurate, result)
        recompute(result, accurate, x, self._apply_exactly)

    def _apply_exactly(self, x: Array) -> Translation:
        unit, defined = self.origin.unit_rows(x)
        result = _allocate(x, self.target_width)
        self._place(self.sharpness * (unit @ self.landmarks), defined, result)
        return result

    def _place(self, cosines: Array, has_direction: Array, result: Translation) -> None:
        """Write rows of the target from (n, m) cosines times γ; mu_Y where there is no direction.

        The cosines are overwritten.
        """
        xp = array_namespace(cosines, self.weights)
        # The kernel's factor e^(−γ) is omitted here and below: rows are normalised afterwards.
        min_norm = RTOL * self.gain * math.exp(self.sharpness)
        rows, defined = result
        with suppress_warnings():
            xp.matmul(xp.exp(cosines, out=cosines), self.weights, out=rows)
            squares = xp.vecdot(rows, rows)
            defined[:] = has_direction & (squares > min_norm**2)
            rows *= (self.scale / xp.sqrt(squares))[:, None]
            if not bool(xp.all(defined)):
                rows[~defined, :] = 0.0
            rows += self.mean


def _allocate(x: Array, width: int) -> Translation:
    """Room for the translation of rows (n, d_X) to a width."""
    xp = array_namespace(x)
    return Translation(
        xp.empty((x.shape[0], width), dtype=xp.float32, device=device(x)),
        xp.empty((x.shape[0],), dtype=xp.bool, device=device(x)),
    )
