"""How well spaces translate into each other, told by anchors that a fit has not seen; no labels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.bridges import (
    BridgeName,
    Inverse,
    InverseName,
    Parameters,
    Side,
    fuse,
    inverse,
    needs,
)
from stitchwork.geometry.frame import Frame, frame, unit_rows
from stitchwork.geometry.linalg import spaced

FOLDS: Final = 5
MOST_ANCHORS: Final = 500
"""Evenly spaced anchors that are used: what is fitted on them all is rather better than is said."""
FEWEST_ANCHORS: Final = 2 * FOLDS
SAME: Final = 1e-6
"""Cosines closer than this are those of one and the same anchor, registered twice."""

Floats = NDArray[np.float32]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Anchored:
    """A space as cross-validation sees it.

    Attributes:
        anchors: (k, d) float32, at most `MOST_ANCHORS` of them, the same ones in every space.
        parameters: The space's own parameters of the bridges.
    """

    anchors: Floats
    parameters: Parameters


class HeldOut(NamedTuple):
    """What anchors tell that were translated without having been seen.

    Attributes:
        similarity: Mean cosine in [−1, 1] to their true rows, about the target's mean; near 0
            where the spaces have nothing in common.
        recall: Share of them whose own row is the nearest among those held out with them.
        chance: That share for a translation that knows nothing.
        anchors: How many were held out in all.
    """

    similarity: float
    recall: float
    chance: float
    anchors: int


class _Fold(NamedTuple):
    """One space without a fifth of its anchors, and that fifth."""

    as_source: Side
    as_target: Side
    held: Floats
    directions: Floats


def some(count: int) -> NDArray[np.int64]:
    """Which of `count` anchors are used: all of few, `MOST_ANCHORS` evenly spaced of many."""
    return spaced(count, MOST_ANCHORS)


def held_out(
    spaces: Mapping[str, Anchored], pairs: Sequence[Pair], bridge: BridgeName
) -> Iterator[tuple[Pair, HeldOut | None]]:
    """Cross-validated quality of pairs of spaces on one anchor set.

    Four fifths of the anchors are fitted on, once per space and not once per pair, the others
    are translated and compared with what they should have become; five times.

    Args:
        spaces: The spaces, by name, with anchors of equal index.
        pairs: (source, target) names.
        bridge: Which way through the anchors.

    Yields:
        Each pair once, with None where it cannot be told: fewer than 10 anchors, anchors too much
        alike to leave some out, or a bridge `none` between spaces of different widths.
    """
    total: dict[Pair, NDArray[np.float64] | None] = {pair: np.zeros(4) for pair in pairs}
    count = min((len(spaces[name].anchors) for pair in pairs for name in pair), default=0)
    for fold in range(FOLDS) if count >= FEWEST_ANCHORS else ():
        seen = {name: _fold(spaces[name], fold, bridge) for name in _named(pairs)}
        for pair in pairs:
            so_far, source, target = total[pair], seen[pair[0]], seen[pair[1]]
            found = None if source is None or target is None else _compare(source, target, bridge)
            total[pair] = None if so_far is None or found is None else so_far + found
    for pair, sums in total.items():
        if sums is None or not sums[3]:
            yield pair, None
        else:
            similarity, recall, chance, rows = sums.tolist()
            yield pair, HeldOut(similarity / rows, recall / rows, chance / rows, int(rows))


def _named(pairs: Iterable[Pair]) -> set[str]:
    return {name for pair in pairs for name in pair}


def _fold(space: Anchored, fold: int, bridge: BridgeName) -> _Fold | None:
    """The space without one fifth of its anchors; None where what is left spans nothing."""
    # Every fifth one, since neighbours in a set are often alike.
    left_out = np.arange(len(space.anchors)) % FOLDS == fold
    try:
        seen = frame(space.anchors[~left_out])
    except InvalidInputError:
        return None
    held = space.anchors[left_out]
    of_source, of_target = needs(bridge)
    # Fitted in float64; what is multiplied for every pair is multiplied in half the time.
    as_source, as_target = (
        Side(
            seen.on(_narrow),
            space.parameters,
            None if name is None else _inverted(name, seen, space.parameters),
        )
        for name in (of_source, of_target)
    )
    return _Fold(as_source, as_target, held, _narrow(unit_rows(held.astype(np.float64), seen.mean)))


def _inverted(name: InverseName, seen: Frame, parameters: Parameters) -> Inverse:
    found = inverse(name, seen, parameters)
    # Through landmarks that all but coincide, float32 would not do.
    return found if seen.count > parameters.landmarks else found.on(_narrow)


def _narrow(array: Array) -> Floats:
    return np.asarray(array, np.float32)


def _compare(source: _Fold, target: _Fold, bridge: BridgeName) -> NDArray[np.float64] | None:
    """Sums over the rows held out: cosine, own row nearest, chance of that, one for each."""
    if bridge == "none" and source.held.shape[1] != target.held.shape[1]:
        return None
    rows = fuse(bridge, source.as_source, target.as_target).apply(source.held).rows
    cosines = unit_rows(rows, target.as_target.frame.mean) @ target.directions.T
    own = np.diagonal(cosines)
    nearest = own >= cosines.max(axis=1) - SAME
    return np.array([own.sum(), (nearest & (own > 0)).sum(), 1.0, len(own)])
