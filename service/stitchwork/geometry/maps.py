"""What serves a pair of spaces: maps that are applied to batches of rows."""

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol, Self

from array_api_compat import array_namespace

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, directions
from stitchwork.geometry.linalg import RTOL, Convert, quiet

CLOSE: Final = 2.0**-22
"""Distance from the mean, relative to its norm, that is four float32 roundings: no direction."""
CLEAR: Final = 2.0**-12
"""Rows that a fused map shrinks by less than this, against its norm, lose no more than 1e-4 of
their direction to rounding; the others are computed again with care."""
CACHED: Final = 512
"""Rows that are finished at a time after their product: so many stay in a core's cache."""
BLOCK: Final = 4096
"""Rows whose kernel values are held at a time."""
SAFE: Final = (1e-26, 1e26)
"""Squared norms between which no float32 square overflows or vanishes."""


class Translation(NamedTuple):
    """Rows in the target space, and which of the inputs had a direction at all.

    Attributes:
        rows: (n, d_Y) float32, finite.
        defined: (n,) bool; False where the input stands at its space's mean.
    """

    rows: Array
    defined: Array


class Map(Protocol):
    """Takes rows of one space to rows of another."""

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""

    @property
    def width_in(self) -> int:
        """Width of the rows it takes."""

    @property
    def width_out(self) -> int:
        """Width of the rows it gives."""

    def apply(self, x: Array) -> Translation:
        """Rows (n, d_X) of the source as rows (n, d_Y) of the target."""

    def on(self, convert: Convert) -> Self:
        """The same map with every array converted, such as onto a device."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where a space has no direction: its mean, finer than float32 without needing float64.

    Attributes:
        parts: (2, d) float32, the mean as a float32 and what that leaves out. Subtracted one
            after the other they centre rows close to the mean exactly, on devices without
            float64 too.
        norm: Norm of the mean.
    """

    parts: Array
    norm: float

    @classmethod
    def of(cls, mean: Array) -> Self:
        """From (d,) float64."""
        xp = array_namespace(mean)
        high = xp.astype(mean, xp.float32)
        low = xp.astype(mean - xp.astype(high, mean.dtype), xp.float32)
        return cls(xp.stack([high, low]), float(xp.linalg.vector_norm(mean)))

    def unit(self, x: Array) -> tuple[Array, Array]:
        """Directions of (n, d) float32 rows from the mean, whatever their size.

        Returns:
            (n, d) unit rows, and (n,) bool, False for a zero row: x was not finite, or closer
            to the mean than float32 can tell.
        """
        xp = array_namespace(x, self.parts)
        unit, length = directions((x - self.parts[0, :]) - self.parts[1, :])
        defined = length > CLOSE * self.norm
        return xp.where(defined[:, None], unit, 0.0), defined

    def on(self, convert: Convert) -> Self:
        """The same origin with its array converted."""
        return replace(self, parts=convert(self.parts))


@dataclass(frozen=True, slots=True, eq=False)
class FusedMap:
    """y = s_Y · normalise(x F − mu_X F) + mu_Y: one product, one small vector.

    Attributes:
        matrix: F = read_X · write_Y, (d_X, d_Y) float32.
        offset: mu_X F, (d_Y,) float32.
        mean: mu_Y, (d_Y,) float32.
        scale: s_Y, in the target's own unit.
        origin: mu_X.
        gain: Frobenius norm of F, no less than what any unit row is stretched by.
    """

    matrix: Array
    offset: Array
    mean: Array
    scale: float
    origin: Origin
    gain: float

    @classmethod
    def of(cls, fused: Array, source: Frame, target: Frame) -> Self:
        """From (d_X, d_Y) float64 F and the frames of both spaces."""
        xp = array_namespace(fused)
        return cls(
            xp.astype(fused, xp.float32),
            xp.astype(source.mean @ fused, xp.float32),
            xp.astype(target.mean, xp.float32),
            target.scale,
            Origin.of(source.mean),
            float(xp.linalg.matrix_norm(fused)),
        )

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""
        arrays = (self.matrix, self.offset, self.mean, self.origin.parts)
        return sum(int(array.nbytes) for array in arrays)

    @property
    def width_in(self) -> int:
        """Width of the rows it takes, d_X."""
        return int(self.matrix.shape[0])

    @property
    def width_out(self) -> int:
        """Width of the rows it gives, d_Y."""
        return int(self.matrix.shape[1])

    def on(self, convert: Convert) -> Self:
        """The same map with every array converted, such as onto a device."""
        return replace(
            self,
            matrix=convert(self.matrix),
            offset=convert(self.offset),
            mean=convert(self.mean),
            origin=self.origin.on(convert),
        )

    def apply(self, x: Array) -> Translation:
        """Rows of the source as rows of the target.

        Args:
            x: (n, d_X) float32, need not be unit; other dtypes are taken as float32.

        Returns:
            Rows at distance s_Y from mu_Y, whatever the size of x − mu_X. A row that is closer to
            mu_X than float32 can tell, that F takes to nothing (a gain below 1e-6 of F's norm),
            or that is not finite, becomes mu_Y and is not defined.

        Raises:
            InvalidInputError: If the rows are not of the source's width.
        """
        x = _rows(x, self.width_in)
        xp = array_namespace(x, self.matrix)
        starts = range(0, max(1, x.shape[0]), CACHED)
        with quiet():
            rows = x @ self.matrix
            parts = [slice(start, start + CACHED) for start in starts]
            clear = xp.concat([self._place(rows[part, :], x[part, :]) for part in parts])
        if bool(xp.all(clear)):
            return Translation(rows, clear)
        doubtful = ~clear
        rows[doubtful, :], clear[doubtful] = self._carefully(x[doubtful, :])
        return Translation(rows, clear)

    def _place(self, rows: Array, x: Array) -> Array:
        """Put products x F where they belong, in place; (n,) bool, False where that is in doubt."""
        xp = array_namespace(rows)
        rows -= self.offset
        squares = xp.vecdot(rows, rows)
        lost = (CLEAR * self.gain) ** 2 * xp.vecdot(x, x)
        rows *= (self.scale / xp.sqrt(squares))[:, None]
        rows += self.mean
        return (squares > SAFE[0]) & (squares < SAFE[1]) & (squares > lost)

    def _carefully(self, x: Array) -> Translation:
        """The same where x is huge, tiny or close to mu_X: centred and made unit before F."""
        xp = array_namespace(x, self.matrix)
        unit, defined = self.origin.unit(x)
        rows, gains = directions(unit @ self.matrix)
        defined = defined & (gains > RTOL * self.gain)
        rows = xp.where(defined[:, None], rows, 0.0) * self.scale + self.mean
        return Translation(rows, defined)


@dataclass(frozen=True, slots=True, eq=False)
class KernelMap:
    """y = s_Y · normalise(exp(γ (unit(x) Uₘᵀ − 1)) M) + mu_Y: two products, an exponential between.

    Attributes:
        landmarks: Uₘᵀ, (d_X, m) float32 unit anchors of the source.
        sharpness: γ.
        weights: M = A_X W_Y, (m, d_Y) float32.
        mean: mu_Y, (d_Y,) float32.
        scale: s_Y, in the target's own unit.
        origin: mu_X.
        gain: Frobenius norm of M.
    """

    landmarks: Array
    sharpness: float
    weights: Array
    mean: Array
    scale: float
    origin: Origin
    gain: float

    @classmethod
    def of(
        cls, landmarks: Array, sharpness: float, weights: Array, source: Frame, target: Frame
    ) -> Self:
        """From (m, d_X) unit anchors, γ, (m, d_Y) float64 M, and the frames of both spaces."""
        xp = array_namespace(weights)
        return cls(
            # Laid out in memory as the product reads it.
            xp.asarray(xp.astype(landmarks, xp.float32).T, copy=True),
            sharpness,
            xp.astype(weights, xp.float32),
            xp.astype(target.mean, xp.float32),
            target.scale,
            Origin.of(source.mean),
            float(xp.linalg.matrix_norm(weights)),
        )

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""
        arrays = (self.landmarks, self.weights, self.mean, self.origin.parts)
        return sum(int(array.nbytes) for array in arrays)

    @property
    def width_in(self) -> int:
        """Width of the rows it takes, d_X."""
        return int(self.landmarks.shape[0])

    @property
    def width_out(self) -> int:
        """Width of the rows it gives, d_Y."""
        return int(self.weights.shape[1])

    def on(self, convert: Convert) -> Self:
        """The same map with every array converted, such as onto a device."""
        return replace(
            self,
            landmarks=convert(self.landmarks),
            weights=convert(self.weights),
            mean=convert(self.mean),
            origin=self.origin.on(convert),
        )

    def apply(self, x: Array) -> Translation:
        """Rows of the source as rows of the target.

        Args:
            x: (n, d_X) float32, need not be unit; other dtypes are taken as float32.

        Returns:
            As `FusedMap.apply`. Takes O(m) more memory for each of at most 4,096 rows at a time.

        Raises:
            InvalidInputError: If the rows are not of the source's width.
        """
        x = _rows(x, self.width_in)
        xp = array_namespace(x, self.weights)
        parts = [self._block(x[i : i + BLOCK, :]) for i in range(0, x.shape[0], BLOCK)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._block(x)
        return Translation(
            xp.concat([part.rows for part in parts]), xp.concat([part.defined for part in parts])
        )

    def _block(self, x: Array) -> Translation:
        xp = array_namespace(x, self.weights)
        with quiet():
            centred = x - self.origin.parts[0, :]
            centred -= self.origin.parts[1, :]
            squares = xp.vecdot(centred, centred)
            clear = (squares > SAFE[0]) & (squares < SAFE[1])
            clear &= squares > (CLEAR * self.origin.norm) ** 2
            # Before the product, which is the wider.
            centred *= (self.sharpness / xp.sqrt(squares))[:, None]
            rows, defined = self._written(centred @ self.landmarks, clear)
        if not bool(xp.all(clear)):
            doubtful = ~clear
            unit, known = self.origin.unit(x[doubtful, :])
            cosines = self.sharpness * (unit @ self.landmarks)
            rows[doubtful, :], defined[doubtful] = self._written(cosines, known)
        return Translation(rows, defined)

    def _written(self, cosines: Array, known: Array) -> Translation:
        """Rows of the target from (n, m) cosines times γ; mu_Y where not `known`."""
        xp = array_namespace(cosines, self.weights)
        # The kernel's factor e^(−γ) is left out: rows are scaled anyway.
        least = RTOL * self.gain * math.exp(self.sharpness)
        with quiet():
            rows = xp.exp(cosines) @ self.weights
            squares = xp.vecdot(rows, rows)
            defined = known & (squares > least**2)
            rows *= (self.scale / xp.sqrt(squares))[:, None]
            if not bool(xp.all(defined)):
                rows[~defined, :] = 0.0
            rows += self.mean
        return Translation(rows, defined)


@dataclass(frozen=True, slots=True, eq=False)
class PassThrough:
    """Rows as they are: from a space to itself, or the paper's absolute row.

    Attributes:
        origin: mu_X, where rows have no direction.
    """

    origin: Origin

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""
        return int(self.origin.parts.nbytes)

    @property
    def width_in(self) -> int:
        """Width of the rows it takes."""
        return int(self.origin.parts.shape[1])

    @property
    def width_out(self) -> int:
        """Width of the rows it gives, the same."""
        return self.width_in

    def on(self, convert: Convert) -> Self:
        """The same map with its array converted."""
        return replace(self, origin=self.origin.on(convert))

    def apply(self, x: Array) -> Translation:
        """The rows themselves.

        Args:
            x: (n, d) float32; other dtypes are taken as float32.

        Returns:
            x, a row at mu_X too, which is not defined.

        Raises:
            InvalidInputError: If the rows are not of the space's width.
        """
        x = _rows(x, self.width_in)
        xp = array_namespace(x, self.origin.parts)
        with quiet():
            rows = x - self.origin.parts[0, :]
            squares = xp.vecdot(rows, rows)
            far = squares > (CLEAR * self.origin.norm) ** 2
            defined = far & (squares > SAFE[0]) & (squares < SAFE[1])
        if not bool(xp.all(defined)):
            doubtful = ~defined
            defined[doubtful] = self.origin.unit(x[doubtful, :])[1]
        return Translation(x, defined)


def _rows(x: Array, width: int) -> Array:
    """The rows as float32, checked against the width that a map takes."""
    if x.ndim != 2 or x.shape[1] != width:
        raise InvalidInputError(f"expected rows of shape (n, {width}), got {tuple(x.shape)}")
    xp = array_namespace(x)
    with quiet():
        return xp.astype(x, xp.float32, copy=False)
