"""Coverage: whether inputs are like a space's anchors, outside of which a bridge is unreliable."""

from dataclasses import dataclass, replace
from typing import Final, Self

from array_api_compat import array_namespace, device

from stitchwork.geometry import Array
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import Convert, evenly_spaced, index_array, suppress_warnings

MAX_AXES: Final = 32
MAX_ANCHORS: Final = 512
"""Evenly spaced anchors that axes and threshold are computed from."""
MIN_ANCHORS: Final = 2 * MAX_AXES
"""Fewer anchors are as far from each other as from any other input."""
FOLDS: Final = 4
QUANTILE: Final = 0.01
BLOCK: Final = 512
"""Rows processed at a time: they fit in a core's cache."""
MIN_RELATIVE_SQUARE: Final = 2.0**-8
"""Squared distance from the mean, relative to the squared norms, below which rows are centred
first: otherwise rounding would decide the result."""
MIN_EIGENVALUE: Final = 1e-9
"""Relative to the largest one; directions of smaller ones are noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """The subspace of the directions of a space's anchors, and how close to it they are.

    Attributes:
        mean: (d,) float32, the anchors' mean, in the space's unit.
        axes: (d, p) float32, orthonormal; the p ≤ 32 principal directions of the unit anchors.
        threshold: Minimum share of a direction's squared length that is in their span; 0, which
            every input reaches, where there are too few anchors.
    """

    mean: Array
    axes: Array
    threshold: float

    @classmethod
    def from_frame(cls, frame: Frame) -> Self:
        """From the anchors alone: 1% of anchors that are left out of the fit are not covered.

        The share of an anchor in the span is measured on the axes of three quarters of the
        anchors, without itself.
        """
        selected = index_array(evenly_spaced(frame.count, MAX_ANCHORS), frame.unit_anchors)
        unit = frame.unit_anchors[selected, :]
        xp = array_namespace(unit)
        count, width = unit.shape
        # Fewer axes than the width, or they would span everything; fewer than anchors, or each
        # anchor would have its own.
        max_axes = max(1, min(MAX_AXES, count // FOLDS, width // 3))
        threshold = 0.0
        if frame.count >= MIN_ANCHORS:
            fold = xp.arange(count, device=device(unit)) % FOLDS
            shares = [
                _share_in_span(unit[fold == i, :], _principal_axes(unit[fold != i, :], max_axes))
                for i in range(FOLDS)
            ]
            threshold = float(xp.sort(xp.concat(shares))[int(QUANTILE * count)])
        axes = _principal_axes(unit, max_axes)
        return cls(xp.astype(frame.mean, xp.float32), xp.astype(axes, xp.float32), threshold)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        return int(self.mean.nbytes + self.axes.nbytes)

    def convert_arrays(self, convert: Convert) -> Self:
        """A copy with its arrays converted, such as moved to a device."""
        return replace(self, mean=convert(self.mean), axes=convert(self.axes))

    def covers(self, x: Array) -> Array:
        """Which inputs are like the anchors.

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
        with suppress_warnings():
            # Not centred first: copying the rows takes as long as all the rest.
            norms, norm = xp.vecdot(x, x), xp.vecdot(self.mean, self.mean)
            squares = norms - 2 * (x @ self.mean) + norm
            covered = self._reaches_threshold(x @ self.axes - self.mean @ self.axes, squares)
            accurate = squares > MIN_RELATIVE_SQUARE * (norms + norm)
            if not bool(xp.all(accurate)):
                rows = x[~accurate, :] - self.mean
                squares = xp.vecdot(rows, rows)
                reached = self._reaches_threshold(rows @ self.axes, squares)
                covered[~accurate] = reached & (squares < float("inf"))
            return covered

    def _reaches_threshold(self, projections: Array, squares: Array) -> Array:
        """Whether projections on the axes are a sufficient share of the squared lengths."""
        xp = array_namespace(projections)
        return xp.vecdot(projections, projections) >= self.threshold * squares


def _principal_axes(unit: Array, max_axes: int) -> Array:
    """(d, p) orthonormal principal directions of (m, d) unit rows, p ≤ max_axes and their rank."""
    xp = array_namespace(unit)
    values, vectors = xp.linalg.eigh(unit @ unit.T)
    values, vectors = values[-max_axes:], vectors[:, -max_axes:]
    significant = values > MIN_EIGENVALUE * values[-1]
    return (unit.T @ vectors[:, significant]) / xp.sqrt(values[significant])


def _share_in_span(unit: Array, axes: Array) -> Array:
    """(m,) share of the squared length of (m, d) unit rows that is in the span of the axes."""
    projections = unit @ axes
    return array_namespace(unit).vecdot(projections, projections)
