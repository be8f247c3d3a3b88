"""Whether there are enough anchors: how well held-out ones are told by more and more others."""

from typing import Final, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry import Array
from stitchwork.geometry.bridges import BridgeName, Parameters, Side, fuse
from stitchwork.geometry.frame import Frame, frame, unit_rows

SIZES: Final = 8
DRAWS: Final = 3
HELD_OUT: Final = 5
"""One anchor in so many is held out."""
LEAST: Final = 20
"""Fewer anchors have no curve."""
SMALLEST: Final = 8
GAIN: Final = 0.01
"""Cosine that twice as many anchors must bring to be worth it."""
FAIR: Final = 0.5
"""Below this similarity the anchors say little about other inputs, however flat the curve."""


class Point(NamedTuple):
    """Similarity of held-out anchors, mean and standard deviation over the draws."""

    anchors: int
    similarity: float
    std: float


class Curve(NamedTuple):
    """What a number of anchors is worth.

    Attributes:
        points: By growing number of anchors.
        doubled: The similarity that twice as many anchors as the last point's would reach.
        enough: Whether that is less than 0.01 more, and the similarity at least 0.5.
        reason: The same in words.
    """

    points: tuple[Point, ...]
    doubled: float | None
    enough: bool
    reason: str


def learning_curve(
    x: Array, y: Array, bridge: BridgeName, source: Parameters, target: Parameters, seed: int = 0
) -> Curve:
    """Held-out similarity for growing numbers of anchors.

    Args:
        x: (k, d_X) anchors of the source.
        y: (k, d_Y) anchors of the target, of the same inputs.
        bridge: Which way through the anchors.
        source: The source's parameters.
        target: The target's.
        seed: Of the draws.

    Returns:
        Eight sizes, geometric, up to four fifths of k; at each the mean cosine about the target's
        mean between the held-out fifth and its translation, over three draws. A draw's smaller
        sizes are prefixes of its larger ones. Equal input gives an equal answer.

    Raises:
        InvalidInputError: If the numbers of anchors differ, or the bridge cannot join the spaces.
    """
    if x.shape[0] != y.shape[0]:
        raise InvalidInputError(
            f"expected anchors of one set, got {x.shape[0]} and {y.shape[0]} of them"
        )
    k = x.shape[0]
    if k < LEAST:
        told = f"{k} anchors are too few to hold any out: {LEAST} are the least, hundreds a start"
        return Curve((), None, False, told)
    held = k // HELD_OUT
    sizes = sorted({round(n) for n in np.geomspace(SMALLEST, k - held, SIZES)})
    found = np.zeros((DRAWS, len(sizes)))
    for draw in range(DRAWS):
        order = np.random.default_rng((seed, draw)).permutation(k)
        test, rest = order[:held], order[held:]
        for at, size in enumerate(sizes):
            found[draw, at] = _similarity(x, y, rest[:size], test, bridge, source, target)
    means, stds = found.mean(axis=0), found.std(axis=0)
    points = tuple(Point(*p) for p in zip(sizes, means.tolist(), stds.tolist(), strict=True))
    return _judged(points)


def _similarity(
    x: Array,
    y: Array,
    fit: Array,
    test: Array,
    bridge: BridgeName,
    source: Parameters,
    target: Parameters,
) -> float:
    xp = array_namespace(x, y)
    some, held = (xp.asarray(part, device=device(x)) for part in (fit, test))
    there = _framed(y[some, :])
    here = _framed(x[some, :])
    if there is None or here is None:
        return 0.0
    moved = fuse(bridge, Side(here, source), Side(there, target)).apply(x[held, :]).rows
    wanted = unit_rows(xp.astype(y[held, :], xp.float64), there.mean)
    got = unit_rows(xp.astype(moved, xp.float64), there.mean)
    return float(xp.mean(xp.vecdot(got, wanted)))


def _framed(rows: Array) -> Frame | None:
    """The frame of a draw; None where all of it stands at its mean."""
    try:
        return frame(rows)
    except InvalidInputError as error:
        if error.code != ErrorCode.DEGENERATE_ANCHORS:
            raise
        return None


def _judged(points: tuple[Point, ...]) -> Curve:
    """The curve with what doubling brings, by the power law through its last three points."""
    last = points[-1]
    doubled = _extrapolated(points[-3:], 2 * last.anchors)
    gain = doubled - last.similarity
    told = (
        f"held-out similarity is {last.similarity:.3f} with {last.anchors} anchors; twice as many "
        f"would bring about {gain:+.3f}"
    )
    if last.similarity < FAIR:
        return Curve(
            points, doubled, False, f"{told}; below {FAIR} they say little of other inputs"
        )
    worth = "worth adding" if gain >= GAIN else "not worth it"
    return Curve(points, doubled, gain < GAIN, f"{told}: {worth} (the bar is {GAIN})")


def _extrapolated(points: tuple[Point, ...], anchors: int) -> float:
    """1 − similarity as a power of the number of anchors, by least squares on logarithms."""
    error = np.log([max(1e-6, 1 - point.similarity) for point in points])
    size = np.log([point.anchors for point in points])
    slope = float(np.polyfit(size, error, 1)[0]) if len(points) > 1 else 0.0
    # A curve that falls by chance promises no loss from more anchors.
    return 1 - float(np.exp(error[-1] + min(0.0, slope) * (np.log(anchors) - size[-1])))
