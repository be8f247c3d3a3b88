"""What serves a pair of spaces: maps that are applied to batches of rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

from array_api_compat import array_namespace

from service.geometry import Array
from service.geometry.relative import Frame

CLOSE = 1e-6
"""Distance from the mean, relative to its size, below which float32 leaves no direction."""


class Translation(NamedTuple):
    """Rows in the target space, and which of the inputs had a direction at all.

    Attributes:
        rows: (n, d_target) float32, finite.
        defined: (n,) bool; False where the input stands at its space's mean.
    """

    rows: Array
    defined: Array


class Map(Protocol):
    """Takes rows of one space to rows of another."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""

    def apply(self, x: Array) -> Translation:
        """Rows (n, d_source) float32 as rows of the target."""

    def on(self, convert: Callable[[Array], Array]) -> Self:
        """The same map with every array converted, such as onto a device."""


@dataclass(frozen=True, slots=True)
class FusedMap:
    """y = s_Y · normalise(x F − mu_X F) + mu_Y, one product and one small vector.

    Attributes:
        matrix: F = read_X · write_Y, (d_X, d_Y) float32.
        offset: mu_X F, (d_Y,) float32.
        source_mean: mu_X, (d_X,) float32.
        mean: mu_Y, (d_Y,) float32.
        scale: s_Y.
    """

    matrix: Array
    offset: Array
    source_mean: Array
    mean: Array
    scale: float

    @classmethod
    def of(cls, fused: Array, source: Frame, target: Frame) -> "FusedMap":
        """From a float64 product and the frames of both spaces."""
        xp = array_namespace(fused)
        single = xp.float32
        return cls(
            xp.astype(fused, single),
            xp.astype(source.mean @ fused, single),
            xp.astype(source.mean, single),
            xp.astype(target.mean, single),
            target.scale,
        )

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        arrays = (self.matrix, self.offset, self.source_mean, self.mean)
        return sum(
            4 * int(array.size if isinstance(array.size, int) else array.numel())
            for array in arrays
        )

    def on(self, convert: Callable[[Array], Array]) -> "FusedMap":
        """The same map with every array converted."""
        return replace(
            self,
            matrix=convert(self.matrix),
            offset=convert(self.offset),
            source_mean=convert(self.source_mean),
            mean=convert(self.mean),
        )

    def apply(self, x: Array) -> Translation:
        """Rows of the source as rows of the target.

        Args:
            x: (n, d_X) float32, finite.

        Returns:
            Rows at distance s_Y from mu_Y; mu_Y itself, undefined, for rows at mu_X.
        """
        xp = array_namespace(x, self.matrix)
        rows = x @ self.matrix
        rows -= self.offset
        norms = xp.linalg.vector_norm(rows, axis=1)
        doubtful = ~(xp.isfinite(norms) & (norms > CLOSE * xp.linalg.vector_norm(self.offset)))
        if bool(xp.any(doubtful)):
            return self._carefully(x)
        rows *= (self.scale / norms)[:, None]
        rows += self.mean
        return Translation(rows, ~doubtful)

    def _carefully(self, x: Array) -> Translation:
        """The same in float64, where rows are huge, tiny, or close to the mean."""
        xp = array_namespace(x, self.matrix)
        double = xp.float64
        mean = xp.astype(self.source_mean, double)
        rows = xp.astype(x, double) - mean
        largest = xp.max(xp.abs(rows), axis=1, keepdims=True)
        defined = largest[:, 0] > CLOSE * xp.max(xp.abs(mean))
        rows = rows / xp.where(largest > 0, largest, xp.ones_like(largest))
        rows = rows @ xp.astype(self.matrix, double)
        norms = xp.linalg.vector_norm(rows, axis=1)
        defined = defined & (norms > 0)
        factor = xp.where(
            defined,
            self.scale / xp.where(defined, norms, xp.ones_like(norms)),
            xp.zeros_like(norms),
        )
        rows = rows * factor[:, None] + xp.astype(self.mean, double)
        return Translation(xp.astype(rows, xp.float32), defined)


@dataclass(frozen=True, slots=True)
class PassThrough:
    """Rows as they are.

    Attributes:
        mean: (d,) float32, the mean of the space, where rows have no direction.
    """

    mean: Array

    @classmethod
    def of(cls, seen: Frame) -> "PassThrough":
        """For rows of this frame's space."""
        xp = array_namespace(seen.mean)
        return cls(xp.astype(seen.mean, xp.float32))

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return 4 * int(self.mean.shape[0])

    def on(self, convert: Callable[[Array], Array]) -> "PassThrough":
        """The same map with every array converted."""
        return replace(self, mean=convert(self.mean))

    def apply(self, x: Array) -> Translation:
        """The rows themselves."""
        xp = array_namespace(x, self.mean)
        far = xp.max(xp.abs(x - self.mean), axis=1)
        return Translation(x, far > CLOSE * xp.max(xp.abs(self.mean)))
