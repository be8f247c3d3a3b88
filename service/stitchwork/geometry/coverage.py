"""Whether inputs lie where a space's anchors do: only there does a bridge know the way."""

from dataclasses import dataclass, replace
from typing import Final

from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import Convert, indices, quiet, spaced

MOST_AXES: Final = 32
MEASURED: Final = 512
"""Evenly spaced anchors that axes and threshold are taken from."""
FOLDS: Final = 4
QUANTILE: Final = 0.01
BLOCK: Final = 512
"""Rows that are looked at at a time: so many stay in a core's cache meanwhile."""
CLEAR: Final = 2.0**-8
"""Rows that are closer to the mean, by squares against their own and its norm, are centred first,
or rounding would tell where they lie."""
FEWEST: Final = 2 * MOST_AXES
"""Of fewer anchors each is as far from the others as a stranger would be."""


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """The subspace in which the directions of a space's anchors lie, and how nearly they do.

    Attributes:
        mean: (d,) float32, the anchors' mean.
        axes: (d, p) float32, orthonormal; the p ≤ 32 principal directions of the unit anchors.
        threshold: Least share of a direction's squared length that lies in their span; 0 where
            there are too few anchors to tell, which every input reaches.
    """

    mean: Array
    axes: Array
    threshold: float

    @classmethod
    def of(cls, seen: Frame) -> "Coverage":
        """From the anchors alone: of 100 anchors that are themselves left out, one lies outside.

        What an anchor keeps is measured on the axes of three quarters of the anchors, of which it
        is none.
        """
        unit = seen.unit[indices(spaced(seen.count, MEASURED), seen.unit), :]
        xp = array_namespace(unit)
        count, width = unit.shape
        # Fewer than the width, or nothing lies outside; fewer than anchors, or each has its own.
        most = max(1, min(MOST_AXES, count // FOLDS, width // 3))
        threshold = 0.0
        if seen.count >= FEWEST:
            fold = xp.arange(count, device=device(unit)) % FOLDS
            kept = [
                _share(unit[fold == i, :], _axes(unit[fold != i, :], most)) for i in range(FOLDS)
            ]
            threshold = float(xp.sort(xp.concat(kept))[int(QUANTILE * count)])
        axes = _axes(unit, most)
        return cls(xp.astype(seen.mean, xp.float32), xp.astype(axes, xp.float32), threshold)

    @property
    def nbytes(self) -> int:
        """Memory that its arrays hold, in bytes."""
        return int(self.mean.nbytes + self.axes.nbytes)

    def on(self, convert: Convert) -> "Coverage":
        """The same with its arrays converted, such as onto a device."""
        return replace(self, mean=convert(self.mean), axes=convert(self.axes))

    def covers(self, x: Array) -> Array:
        """Which inputs lie where the anchors do.

        Args:
            x: (n, d) rows of the space, need not be unit.

        Returns:
            (n,) bool, True for a row at the mean, which has no direction, and False for one too
            large for float32. Scaling a row about the mean changes nothing.
        """
        xp = array_namespace(x, self.axes)
        if self.threshold <= 0:
            return xp.ones_like(x[:, 0], dtype=xp.bool)
        if x.shape[0] > BLOCK:
            starts = range(0, x.shape[0], BLOCK)
            return xp.concat([self.covers(x[start : start + BLOCK, :]) for start in starts])
        with quiet():
            # Not centred: a copy of the rows takes as long as all the rest.
            norms, norm = xp.vecdot(x, x), xp.vecdot(self.mean, self.mean)
            squares = norms - 2 * (x @ self.mean) + norm
            inside = self._holds(x @ self.axes - self.mean @ self.axes, squares)
            clear = squares > CLEAR * (norms + norm)
            if not bool(xp.all(clear)):
                rows = x[~clear, :] - self.mean
                squares = xp.vecdot(rows, rows)
                held = self._holds(rows @ self.axes, squares)
                inside[~clear] = held & (squares < float("inf"))
            return inside

    def _holds(self, kept: Array, squares: Array) -> Array:
        """Whether what the axes keep of rows is enough of their squared lengths."""
        return array_namespace(kept).vecdot(kept, kept) >= self.threshold * squares


def _axes(unit: Array, most: int) -> Array:
    """(d, p) orthonormal principal directions of (m, d) unit rows, p ≤ most and their rank."""
    xp = array_namespace(unit)
    found, vectors = xp.linalg.eigh(unit @ unit.T)
    largest, vectors = found[-most:], vectors[:, -most:]
    there = largest > 1e-9 * largest[-1]
    return (unit.T @ vectors[:, there]) / xp.sqrt(largest[there])


def _share(unit: Array, axes: Array) -> Array:
    """(m,) share of the squared length of (m, d) unit rows that lies in the span of the axes."""
    xp = array_namespace(unit)
    kept = unit @ axes
    return xp.vecdot(kept, kept)
