"""Quality of a space's anchors, alone or with those of a target."""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.bridges import BridgeName, FactorParameters
from stitchwork.geometry.diagnostics.anchor_projection import AnchorProjection, project_anchors
from stitchwork.geometry.diagnostics.cross_validation import AnchoredSpace
from stitchwork.geometry.diagnostics.learning_curve import LearningCurve, learning_curve
from stitchwork.geometry.diagnostics.misalignment import MisalignedPair, misaligned_pairs
from stitchwork.geometry.diagnostics.redundancy import (
    MAX_COMPARED,
    AnchorCandidate,
    Duplicates,
    find_duplicates,
    redundant_anchors,
)
from stitchwork.geometry.frame import Frame
from stitchwork.geometry.linalg import evenly_spaced

MAX_ANCHORS: Final = 2000
"""Evenly spaced anchors that are used where the cost grows with their square or more."""
MAX_REDUNDANT: Final = 10
MAX_PROJECTED: Final = 500
"""Evenly spaced anchors that are shown in two dimensions."""

Floats = NDArray[np.float32]


class AnchorQuality(NamedTuple):
    """Quality of the anchors of a space.

    Attributes:
        compared: Number of anchors, from the first, among which duplicates were searched.
        used: (m,) int64 indices of the anchors that all else refers to, by position.
        duplicates: Groups of equal or nearly equal anchors, by index.
        redundant: Anchors that could be removed, by position in `used`.
        curve: How held-out similarity grows with the number of anchors.
        misaligned: Anchors whose rows do not seem to be of one input; None without a target.
        projected: (n,) int64 indices of the anchors of the projection.
        projection: Anchors in two dimensions.
    """

    compared: int
    used: NDArray[np.int64]
    duplicates: Duplicates
    redundant: list[AnchorCandidate]
    curve: LearningCurve
    misaligned: list[MisalignedPair] | None
    projected: NDArray[np.int64]
    projection: AnchorProjection


def anchor_quality(
    anchors: Floats,
    target_anchors: Floats | None,
    bridge: BridgeName,
    parameters: FactorParameters,
    target_parameters: FactorParameters,
) -> AnchorQuality:
    """The quality of the anchors of a space.

    Args:
        anchors: (k, d) float32.
        target_anchors: (k, d_Y) float32 of a space on the same anchor set; None for the space
            alone, whose learning curve translates it onto itself.
        bridge: The bridge of the learning curve.
        parameters: The space's parameters of the bridges.
        target_parameters: Those of the target, or of the space itself.
    """
    used = sample_indices(len(anchors))
    whole = Frame.from_anchors(anchors)
    part = _subset(whole, used)
    others = anchors if target_anchors is None else target_anchors
    compared = min(len(anchors), MAX_COMPARED)
    projected = evenly_spaced(len(anchors), MAX_PROJECTED)
    target = None
    misaligned = None
    if target_anchors is not None:
        target = AnchoredSpace(target_anchors[projected], target_parameters)
        misaligned = misaligned_pairs(part, _subset(Frame.from_anchors(target_anchors), used))
    return AnchorQuality(
        compared,
        used,
        find_duplicates(_subset(whole, np.arange(compared))),
        redundant_anchors(part, MAX_REDUNDANT),
        learning_curve(anchors[used], others[used], bridge, parameters, target_parameters),
        misaligned,
        projected,
        project_anchors(AnchoredSpace(anchors[projected], parameters), target, bridge),
    )


def sample_indices(count: int) -> NDArray[np.int64]:
    """Indices of the anchors that are used: all, or `MAX_ANCHORS` evenly spaced ones."""
    return evenly_spaced(count, MAX_ANCHORS)


def _subset(whole: Frame, rows: NDArray[np.int64]) -> Frame:
    """The same frame with some of its anchors."""
    return replace(whole, unit_anchors=whole.unit_anchors[rows])
