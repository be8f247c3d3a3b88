"""Cross-validation on anchors: how well spaces translate into each other, without labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.bridges import (
    BridgeName,
    FactorParameters,
    FittedSpace,
    Inverse,
    InverseName,
    compose,
    compute_inverse,
    required_inverses,
)
from stitchwork.geometry.frame import Frame, unit_rows

FOLDS: Final = 5
MAX_ANCHORS: Final = 500
"""Evenly spaced anchors that callers should pass: a fit on all anchors is somewhat better than
the score."""
MIN_ANCHORS: Final = 2 * FOLDS
SAME_COSINE: Final = 1e-6
"""Cosines closer than this belong to one anchor that was registered twice."""

Floats = NDArray[np.float32]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class AnchoredSpace:
    """The anchors of a space and its parameters.

    Attributes:
        anchors: (k, d) float32, at most `MAX_ANCHORS` of them, the same ones in every space.
        parameters: The space's parameters of the bridges.
    """

    anchors: Floats
    parameters: FactorParameters


class CrossValidationScore(NamedTuple):
    """How well held-out anchors were translated.

    Attributes:
        similarity: Mean cosine in [−1, 1] to their true rows, about the target's mean; near 0
            where the spaces have nothing in common.
        recall: Share of them whose own row is the nearest among those held out with them.
        chance: The recall of a random translation.
        anchors: How many were held out in all.
    """

    similarity: float
    recall: float
    chance: float
    anchors: int


class _Fold(NamedTuple):
    """One space fitted without a fifth of its anchors, and that fifth."""

    as_source: FittedSpace
    as_target: FittedSpace
    test_anchors: Floats
    test_directions: Floats


def cross_validate(
    spaces: Mapping[str, AnchoredSpace], pairs: Sequence[Pair], bridge: BridgeName
) -> Iterator[tuple[Pair, CrossValidationScore | None]]:
    """Cross-validated quality of pairs of spaces on one anchor set.

    Five times, four fifths of the anchors are fitted on, once per space and not once per pair,
    and the others are translated and compared with their true rows in the target.

    Args:
        spaces: The spaces, by name, with anchors of equal index.
        pairs: (source, target) names.
        bridge: The bridge.

    Yields:
        Each pair once, with None where there is no score: fewer than 10 anchors, anchors too much
        alike to hold some out, or the bridge `none` between spaces of different widths.
    """
    totals: dict[Pair, NDArray[np.float64] | None] = {pair: np.zeros(4) for pair in pairs}
    names = {name for pair in pairs for name in pair}
    count = min((len(spaces[name].anchors) for name in names), default=0)
    for fold in range(FOLDS) if count >= MIN_ANCHORS else ():
        fitted = {name: _fit_fold(spaces[name], fold, bridge) for name in names}
        for pair in pairs:
            total, source, target = totals[pair], fitted[pair[0]], fitted[pair[1]]
            sums = None if source is None or target is None else _score(source, target, bridge)
            totals[pair] = None if total is None or sums is None else total + sums
    for pair, total in totals.items():
        if total is None or not total[3]:
            yield pair, None
        else:
            similarity, recall, chance, rows = total.tolist()
            score = CrossValidationScore(similarity / rows, recall / rows, chance / rows, int(rows))
            yield pair, score


def cross_validated_rows(
    source: AnchoredSpace, target: AnchoredSpace, bridge: BridgeName
) -> Floats | None:
    """The anchors of a space, each translated by a bridge that was fitted without it.

    Args:
        source: The space.
        target: A space on the same anchor set, with anchors of equal index.
        bridge: The bridge.

    Returns:
        (k, d_Y) float32; None where `cross_validate` has no score.
    """
    if len(source.anchors) < MIN_ANCHORS:
        return None
    if bridge == "none" and source.anchors.shape[1] != target.anchors.shape[1]:
        return None
    rows = np.empty((len(source.anchors), target.anchors.shape[1]), np.float32)
    for fold in range(FOLDS):
        x, y = _fit_fold(source, fold, bridge), _fit_fold(target, fold, bridge)
        if x is None or y is None:
            return None
        translation = compose(bridge, x.as_source, y.as_target)
        rows[fold::FOLDS] = translation.apply(x.test_anchors).rows
    return rows


def _fit_fold(space: AnchoredSpace, fold: int, bridge: BridgeName) -> _Fold | None:
    """The space without one fifth of its anchors; None where the rest have no frame."""
    # Every fifth anchor, since neighbours in a set are often alike.
    is_test = np.arange(len(space.anchors)) % FOLDS == fold
    try:
        frame = Frame.from_anchors(space.anchors[~is_test])
    except InvalidInputError:
        return None
    test_anchors = space.anchors[is_test]
    # Fitted in float64; products that are computed for every pair take half the time in float32.
    as_source, as_target = (
        FittedSpace(
            frame.convert_arrays(_to_float32),
            space.parameters,
            None if name is None else _inverse(name, frame, space.parameters),
        )
        for name in required_inverses(bridge)
    )
    test_directions = _to_float32(unit_rows(test_anchors.astype(np.float64), frame.mean))
    return _Fold(as_source, as_target, test_anchors, test_directions)


def _inverse(name: InverseName, frame: Frame, parameters: FactorParameters) -> Inverse:
    inverse = compute_inverse(name, frame, parameters)
    # Where landmarks almost coincide, float32 is not accurate enough.
    use_float64 = frame.count > parameters.landmarks
    return inverse if use_float64 else inverse.convert_arrays(_to_float32)


def _to_float32(array: Array) -> Floats:
    return np.asarray(array, np.float32)


def _score(source: _Fold, target: _Fold, bridge: BridgeName) -> NDArray[np.float64] | None:
    """(4,) sums over the held-out rows: cosine, own row nearest, chance of that, count."""
    if bridge == "none" and source.test_anchors.shape[1] != target.test_anchors.shape[1]:
        return None
    translation = compose(bridge, source.as_source, target.as_target).apply(source.test_anchors)
    unit = unit_rows(translation.rows, target.as_target.frame.mean)
    cosines = unit @ target.test_directions.T
    own = np.diagonal(cosines)
    nearest = own >= cosines.max(axis=1) - SAME_COSINE
    return np.array([own.sum(), (nearest & (own > 0)).sum(), 1.0, len(own)])
