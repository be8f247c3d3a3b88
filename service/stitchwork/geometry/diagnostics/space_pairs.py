"""Comparison of several spaces on one anchor set, pair by pair."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.diagnostics.cross_validation import (
    AnchoredSpace,
    CrossValidationScore,
    Pair,
    cross_validate,
)
from stitchwork.geometry.diagnostics.space_metrics import agreement
from stitchwork.geometry.frame import Frame


class PairComparison(NamedTuple):
    """One ordered pair of spaces.

    Attributes:
        score: Cross-validated quality of held-out anchors; None if they are too few or too much
            alike.
        agreement: Correlation of the cosines of the two spaces' anchors.
    """

    score: CrossValidationScore | None
    agreement: float


def compare_pairs(
    spaces: Mapping[str, AnchoredSpace], pairs: Sequence[Pair], bridge: BridgeName
) -> dict[Pair, PairComparison]:
    """Compare pairs of spaces on one anchor set.

    Args:
        spaces: The spaces, by name, with anchors of equal index.
        pairs: (source, target) names.
        bridge: The bridge.
    """
    units = {
        name: np.asarray(Frame.from_anchors(space.anchors).unit_anchors, np.float32)
        for name, space in spaces.items()
    }
    agreements: dict[tuple[str, ...], float] = {}
    for x, y in pairs:
        unordered = tuple(sorted((x, y)))
        if unordered not in agreements:
            agreements[unordered] = agreement(units[x], units[y])
    return {
        pair: PairComparison(score, agreements[tuple(sorted(pair))])
        for pair, score in cross_validate(spaces, pairs, bridge)
    }
