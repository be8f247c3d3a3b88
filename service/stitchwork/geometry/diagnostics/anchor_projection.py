"""The anchors of one or two spaces in two dimensions, before and after translation."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.cross_validation import AnchoredSpace, cross_validated_rows

MAX_COMPONENTS: Final = 32
"""Principal components whose variances are reported."""

Floats = NDArray[np.float64]


class AnchorProjection(NamedTuple):
    """Anchors on the first two principal components of a space.

    Attributes:
        spectrum: (c,) shares of the variance of the space's anchors by principal component.
        source: (m, 2) anchors of the space on its own components.
        target: (m, 2) the same anchors in the target, on the target's components; None without one.
        translated: (m, 2) anchors of the space, each translated by a bridge that was fitted without
            it, on the target's components; None if nothing can be translated.
    """

    spectrum: Floats
    source: Floats
    target: Floats | None
    translated: Floats | None


def project_anchors(
    source: AnchoredSpace, target: AnchoredSpace | None, bridge: BridgeName
) -> AnchorProjection:
    """The anchors of a space in two dimensions and, with a target, their translations.

    Args:
        source: The space.
        target: A space on the same anchor set.
        bridge: The bridge from one to the other.

    Returns:
        Coordinates in units of the spread of the anchors: their distances to the mean have a root
        mean square of 1 in each space.
    """
    own = _Components(source.anchors)
    if target is None:
        return AnchorProjection(own.spectrum, own.project(source.anchors), None, None)
    other = _Components(target.anchors)
    rows = cross_validated_rows(source, target, bridge)
    return AnchorProjection(
        own.spectrum,
        own.project(source.anchors),
        other.project(target.anchors),
        None if rows is None else other.project(rows),
    )


class _Components:
    """The principal components of rows.

    Attributes:
        spectrum: (c,) shares of the variance.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._mean = rows.mean(axis=0, dtype=np.float64)
        centered = rows - self._mean
        _, values, axes = np.linalg.svd(centered, full_matrices=False)
        total = float(values @ values)
        self._scale = np.sqrt(total / len(rows)) or 1.0
        self._axes = axes[:2]
        self.spectrum: Floats = (values**2 / (total or 1.0))[:MAX_COMPONENTS]

    def project(self, rows: NDArray[np.float32]) -> Floats:
        """(m, 2) rows on the first two components."""
        points = (rows - self._mean) @ self._axes.T / self._scale
        # A space of one dimension has one component.
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
