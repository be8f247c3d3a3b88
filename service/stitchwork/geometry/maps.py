"""Maps: what a pair of spaces is translated by, applied to batches of rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self

from array_api_compat import array_namespace

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame, normalise
from stitchwork.geometry.linalg import RTOL, Convert, suppress_warnings

MIN_RELATIVE_DISTANCE: Final = 2.0**-22
"""Distance from the mean, relative to the mean's norm, below which a row has no direction: four
float32 roundings."""
ACCURATE_GAIN: Final = 2.0**-12
"""Rows that a map shrinks by less than this, relative to its norm, lose at most 1e-4 of their
direction to rounding; the others are computed again by a slower, exact method."""
CACHE_BLOCK: Final = 512
"""Rows normalised at a time after their product: they fit in a core's cache."""
SQUARE_RANGE: Final = (1e-26, 1e26)
"""Squared norms between which no float32 square overflows or underflows."""


class Translation(NamedTuple):
    """Rows in the target space, and which of them had a direction in the source space.

    Attributes:
        rows: (n, d_Y) float32, finite, in the target's unit.
        defined: (n,) bool; False where the input is at its space's mean.
    """

    rows: Array
    defined: Array


class Map(Protocol):
    """Translates rows of one space to rows of another."""

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""

    @property
    def source_width(self) -> int:
        """Width of its input rows, d_X."""

    @property
    def target_width(self) -> int:
        """Width of its output rows, d_Y."""

    def apply(self, x: Array) -> Translation:
        """Rows (n, d_X) of the source as rows (n, d_Y) of the target."""

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted, such as moved to a device."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A space's mean, in more than float32's precision without float64.

    Attributes:
        parts: (2, d) float32, the mean as float32 and the remainder. Subtracted one after the
            other they centre rows close to the mean exactly, also on devices without float64.
        norm: Norm of the mean, in the space's unit.
    """

    parts: Array
    norm: float

    @classmethod
    def from_mean(cls, mean: Array) -> Self:
        """From (d,) float64."""
        xp = array_namespace(mean)
        high = xp.astype(mean, xp.float32)
        low = xp.astype(mean - xp.astype(high, mean.dtype), xp.float32)
        return cls(xp.stack([high, low]), float(xp.linalg.vector_norm(mean)))

    def unit_rows(self, x: Array) -> tuple[Array, Array]:
        """Directions of (n, d) float32 rows of any size from the mean.

        Returns:
            (n, d) unit rows, and (n,) bool, False for a zero row: x was not finite, or closer to
            the mean than float32 can resolve.
        """
        xp = array_namespace(x, self.parts)
        unit, norms = normalise((x - self.parts[0, :]) - self.parts[1, :])
        defined = norms > MIN_RELATIVE_DISTANCE * self.norm
        return xp.where(defined[:, None], unit, 0.0), defined

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with its array converted."""
        return replace(self, parts=convert(self.parts))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AnchorMap:
    """What all maps through anchors share: where rows come from and where they are placed.

    Attributes:
        origin: mu_X.
        mean: mu_Y, (d_Y,) float32, in the target's unit.
        scale: s_Y, in the target's unit.
        gain: Frobenius norm of the map's matrix, at least what it stretches any unit row by.
    """

    MATRICES: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that a kind of map adds."""

    origin: Origin
    mean: Array
    scale: float
    gain: float

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        arrays = (self.mean, self.origin.parts, *(getattr(self, name) for name in self.MATRICES))
        return sum(int(array.nbytes) for array in arrays)

    @property
    def source_width(self) -> int:
        """Width of its input rows, d_X."""
        return int(self.origin.parts.shape[1])

    @property
    def target_width(self) -> int:
        """Width of its output rows, d_Y."""
        return int(self.mean.shape[0])

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with every array converted, such as moved to a device."""
        matrices = {name: convert(getattr(self, name)) for name in self.MATRICES}
        origin = self.origin.convert_arrays(convert)
        return replace(self, origin=origin, mean=convert(self.mean), **matrices)


def placement(matrix: Array, source: Frame, target: Frame) -> dict[str, Any]:
    """The fields of `AnchorMap`, from a map's float64 matrix and the frames of both spaces."""
    xp = array_namespace(matrix)
    return {
        "origin": Origin.from_mean(source.mean),
        "mean": xp.astype(target.mean, xp.float32),
        "scale": target.scale,
        "gain": float(xp.linalg.matrix_norm(matrix)),
    }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LinearMap(AnchorMap):
    """y = s_Y · normalise(x F − mu_X F) + mu_Y: one matrix product and one vector.

    Attributes:
        matrix: F = read_X · write_Y, (d_X, d_Y) float32.
        offset: mu_X F, (d_Y,) float32.
    """

    MATRICES: ClassVar[tuple[str, ...]] = ("matrix", "offset")

    matrix: Array
    offset: Array

    @classmethod
    def from_product(cls, product: Array, source: Frame, target: Frame) -> Self:
        """From (d_X, d_Y) float64 F = read_X · write_Y and the frames of both spaces."""
        xp = array_namespace(product)
        return cls(
            matrix=xp.astype(product, xp.float32),
            offset=xp.astype(source.mean @ product, xp.float32),
            **placement(product, source, target),
        )

    def apply(self, x: Array) -> Translation:
        """Rows of the source as rows of the target.

        Args:
            x: (n, d_X) float32, need not be unit; other dtypes are converted to float32.

        Returns:
            Rows at distance s_Y from mu_Y, whatever the size of x − mu_X. A row that is closer to
            mu_X than float32 can resolve, that F maps to zero (a gain below 1e-6 of F's norm), or
            that is not finite, becomes mu_Y and is not defined.

        Raises:
            InvalidInputError: If the rows do not have the source's width.
        """
        x = float32_rows(x, self.source_width)
        xp = array_namespace(x, self.matrix)
        with suppress_warnings():
            rows = x @ self.matrix
            if x.shape[0] <= CACHE_BLOCK:
                accurate = self._place(rows, x)
            else:
                starts = range(0, x.shape[0], CACHE_BLOCK)
                blocks = [slice(start, start + CACHE_BLOCK) for start in starts]
                accurate = xp.concat([self._place(rows[block, :], x[block, :]) for block in blocks])
        return recompute(Translation(rows, accurate), accurate, x, self._apply_exactly)

    def _place(self, rows: Array, x: Array) -> Array:
        """Scale and move products x F in place; (n,) bool, False where they are inaccurate."""
        xp = array_namespace(rows)
        rows -= self.offset
        squares = xp.vecdot(rows, rows)
        min_squares = (ACCURATE_GAIN * self.gain) ** 2 * xp.vecdot(x, x)
        rows *= (self.scale / xp.sqrt(squares))[:, None]
        rows += self.mean
        return (squares > SQUARE_RANGE[0]) & (squares < SQUARE_RANGE[1]) & (squares > min_squares)

    def _apply_exactly(self, x: Array) -> Translation:
        """The same for x huge, tiny or close to mu_X: centred and normalised before F."""
        xp = array_namespace(x, self.matrix)
        unit, defined = self.origin.unit_rows(x)
        rows, gains = normalise(unit @ self.matrix)
        defined = defined & (gains > RTOL * self.gain)
        rows = xp.where(defined[:, None], rows, 0.0) * self.scale + self.mean
        return Translation(rows, defined)


@dataclass(frozen=True, slots=True, eq=False)
class IdentityMap:
    """Returns rows unchanged: from a space to itself, or the paper's "absolute" row.

    Attributes:
        origin: mu_X, where rows have no direction.
    """

    origin: Origin

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        return int(self.origin.parts.nbytes)

    @property
    def source_width(self) -> int:
        """Width of its input rows."""
        return int(self.origin.parts.shape[1])

    @property
    def target_width(self) -> int:
        """Width of its output rows, the same."""
        return self.source_width

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with its array converted."""
        return replace(self, origin=self.origin.convert_arrays(convert))

    def apply(self, x: Array) -> Translation:
        """The rows themselves.

        Args:
            x: (n, d) float32; other dtypes are converted to float32.

        Returns:
            x, including rows at mu_X, which are not defined.

        Raises:
            InvalidInputError: If the rows do not have the space's width.
        """
        x = float32_rows(x, self.source_width)
        xp = array_namespace(x, self.origin.parts)
        with suppress_warnings():
            rows = x - self.origin.parts[0, :]
            squares = xp.vecdot(rows, rows)
            defined = squares > (ACCURATE_GAIN * self.origin.norm) ** 2
            defined &= (squares > SQUARE_RANGE[0]) & (squares < SQUARE_RANGE[1])
        if not bool(xp.all(defined)):
            inaccurate = ~defined
            defined[inaccurate] = self.origin.unit_rows(x[inaccurate, :])[1]
        return Translation(x, defined)


def recompute(
    translation: Translation, accurate: Array, x: Array, exactly: Callable[[Array], Translation]
) -> Translation:
    """A translation with its inaccurate rows computed again, in place.

    Args:
        translation: Rows and defined flags.
        accurate: (n,) bool, False for rows to compute again.
        x: (n, d_X) float32, what was translated.
        exactly: The slower method.
    """
    xp = array_namespace(accurate)
    if not bool(xp.all(accurate)):
        inaccurate = ~accurate
        rows, defined = exactly(x[inaccurate, :])
        translation.rows[inaccurate, :] = rows
        translation.defined[inaccurate] = defined
    return translation


def float32_rows(x: Array, width: int) -> Array:
    """Rows as float32, without a copy where they are.

    Raises:
        InvalidInputError: If they do not have this width.
    """
    if x.ndim != 2 or x.shape[1] != width:
        raise InvalidInputError(f"expected rows of shape (n, {width}), got {tuple(x.shape)}")
    xp = array_namespace(x)
    if x.dtype == xp.float32:
        return x
    with suppress_warnings():
        return xp.astype(x, xp.float32)
