"""Learning curves: how well held-out anchors are translated with more and more anchors."""

from typing import Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.bridges import BridgeName, FactorParameters, FittedSpace, compose
from stitchwork.geometry.frame import Frame, unit_rows

SIZES: Final = 8
DRAWS: Final = 3
TEST_SHARE: Final = 5
"""One anchor in this many is held out."""
MIN_ANCHORS: Final = 20
MIN_TRAIN_ANCHORS: Final = 8
MIN_GAIN: Final = 0.01
"""Gain in cosine from which twice as many anchors are worth adding."""
MIN_SIMILARITY: Final = 0.5
"""Below this similarity the anchors predict little about other inputs, however flat the curve."""


class LearningCurvePoint(NamedTuple):
    """Similarity of held-out anchors, mean and standard deviation over the draws."""

    anchors: int
    similarity: float
    std: float


class LearningCurve(NamedTuple):
    """Held-out similarity by number of anchors.

    Attributes:
        points: By increasing number of anchors.
        doubled: The extrapolated similarity with twice as many anchors as the last point.
        enough: Whether the gain of doubling is less than 0.01, and the similarity at least 0.5.
        reason: The same in words.
    """

    points: tuple[LearningCurvePoint, ...]
    doubled: float | None
    enough: bool
    reason: str


def learning_curve(
    x: Array,
    y: Array,
    bridge: BridgeName,
    source: FactorParameters,
    target: FactorParameters,
    seed: int = 0,
) -> LearningCurve:
    """Held-out similarity for increasing numbers of anchors.

    Args:
        x: (k, d_X) anchors of the source.
        y: (k, d_Y) anchors of the target, of the same inputs.
        bridge: The bridge.
        source: The source's parameters.
        target: The target's parameters.
        seed: Of the draws.

    Returns:
        Eight sizes, geometric, up to four fifths of k; at each the mean cosine about the target's
        mean between the held-out fifth and its translation, over three draws. A draw's smaller
        sizes are prefixes of its larger ones. Equal input gives an equal result.

    Raises:
        InvalidInputError: If the numbers of anchors differ, or the bridge cannot join the spaces.
    """
    if x.shape[0] != y.shape[0]:
        raise InvalidInputError(
            f"expected anchors of one set, got {x.shape[0]} and {y.shape[0]} of them"
        )
    k = x.shape[0]
    if k < MIN_ANCHORS:
        reason = (
            f"{k} anchors are too few to hold some out: at least {MIN_ANCHORS} are needed, and "
            "hundreds are recommended"
        )
        return LearningCurve((), None, False, reason)
    test_size = k // TEST_SHARE
    geometric = np.geomspace(MIN_TRAIN_ANCHORS, k - test_size, SIZES)
    sizes = sorted({round(size) for size in geometric})
    similarities = np.zeros((DRAWS, len(sizes)))
    for draw in range(DRAWS):
        order = np.random.default_rng((seed, draw)).permutation(k)
        test, rest = order[:test_size], order[test_size:]
        for i, size in enumerate(sizes):
            similarities[draw, i] = _similarity(x, y, rest[:size], test, bridge, source, target)
    means, stds = similarities.mean(axis=0), similarities.std(axis=0)
    values = zip(sizes, means.tolist(), stds.tolist(), strict=True)
    return _extrapolated(tuple(LearningCurvePoint(*value) for value in values))


def _similarity(
    x: Array,
    y: Array,
    train: Array,
    test: Array,
    bridge: BridgeName,
    source: FactorParameters,
    target: FactorParameters,
) -> float:
    xp = array_namespace(x, y)
    train, test = (xp.asarray(indices, device=device(x)) for indices in (train, test))
    y_frame = _frame(y[train, :])
    x_frame = _frame(x[train, :])
    if y_frame is None or x_frame is None:
        return 0.0
    pair_map = compose(bridge, FittedSpace(x_frame, source), FittedSpace(y_frame, target))
    translated = pair_map.apply(x[test, :]).rows
    expected = unit_rows(xp.astype(y[test, :], xp.float64), y_frame.mean)
    actual = unit_rows(xp.astype(translated, xp.float64), y_frame.mean)
    return float(xp.mean(xp.vecdot(actual, expected)))


def _frame(anchors: Array) -> Frame | None:
    """The frame of a draw; None where all of its anchors are at their mean."""
    try:
        return Frame.from_anchors(anchors)
    except InvalidInputError as error:
        if error.code != ErrorCode.DEGENERATE_ANCHORS:
            raise
        return None


def _extrapolated(points: tuple[LearningCurvePoint, ...]) -> LearningCurve:
    """The curve with the gain of doubling, by the power law through its last three points."""
    last = points[-1]
    doubled = _power_law(points[-3:], 2 * last.anchors)
    gain = doubled - last.similarity
    summary = (
        f"held-out similarity is {last.similarity:.3f} with {last.anchors} anchors; twice as many "
        f"would add about {gain:+.3f}"
    )
    if last.similarity < MIN_SIMILARITY:
        reason = f"{summary}; below {MIN_SIMILARITY} the anchors predict little about other inputs"
        return LearningCurve(points, doubled, False, reason)
    worth = "worth adding" if gain >= MIN_GAIN else "not worth adding"
    reason = f"{summary}: {worth} (threshold {MIN_GAIN})"
    return LearningCurve(points, doubled, gain < MIN_GAIN, reason)


def _power_law(points: tuple[LearningCurvePoint, ...], anchors: int) -> float:
    """The similarity at a number of anchors, with 1 − similarity as a power of that number."""
    error = np.log([max(1e-6, 1 - point.similarity) for point in points])
    size = np.log([point.anchors for point in points])
    slope = float(np.polyfit(size, error, 1)[0]) if len(points) > 1 else 0.0
    # Where the curve falls by chance, no loss is predicted from more anchors.
    return 1 - float(np.exp(error[-1] + min(0.0, slope) * (np.log(anchors) - size[-1])))
