"""Whether anchors in each other's places are found, and others left alone."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.geometry.diagnostics.misalignment import misaligned_pairs
from stitchwork.geometry.diagnostics.redundancy import NEAR_DUPLICATE_COSINE
from stitchwork.geometry.frame import Frame

SIZES: Final = (300, 1000, 1500)
SHARE: Final = 0.05
"""Of the anchors, permuted among themselves."""


def misaligned(embedded: Embedded, seeds: Sequence[int]) -> dict[str, Any]:
    """Both spaces of each pair on the same anchors, the second's once with 5% of them swapped.

    Args:
        embedded: The data set; anchors are drawn from its training rows.
        seeds: One draw of anchors and of those that change places for each.

    Returns:
        `records`: by pair of spaces and number of anchors, over all seeds, how many were `swapped`
        (those set in a near duplicate's place left out: that changes nothing), how many of them
        were `found`, how many others were named `wrongly`, `precision` and `recall`; and `false`,
        how many were named where nothing was swapped, of `clean` anchors in all.
    """
    sizes = [k for k in SIZES if k <= len(embedded.train)]
    records = [
        _record(embedded, pair, k, seeds) for pair in combinations(embedded.rows, 2) for k in sizes
    ]
    return {"share": SHARE, "seeds": list(seeds), "records": records}


def _record(
    embedded: Embedded, pair: tuple[str, str], k: int, seeds: Sequence[int]
) -> dict[str, Any]:
    swapped = found = wrong = false = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(embedded.train)[:k]
        x, y = (embedded.rows[space][drawn] for space in pair)
        seen = Frame.from_anchors(x), Frame.from_anchors(y)
        false += len(misaligned_pairs(*seen))
        places = _places(k, rng)
        bad = places != np.arange(k)
        counted = bad & ~_same(seen, places)
        named = np.zeros(k, np.bool_)
        named[
            [one.pair for one in misaligned_pairs(seen[0], Frame.from_anchors(_moved(y, places)))]
        ] = True
        swapped += int(counted.sum())
        found += int((named & counted).sum())
        wrong += int((named & ~bad).sum())
    return {
        "spaces": list(pair),
        "anchors": k,
        "swapped": swapped,
        "found": found,
        "wrongly": wrong,
        "precision": found / max(1, found + wrong),
        "recall": found / max(1, swapped),
        "false": false,
        "clean": k * len(seeds),
    }


def _places(k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Where each row comes from: a random few of them from the next one of these."""
    places = np.arange(k)
    moved = rng.permutation(k)[: round(SHARE * k)]
    places[moved] = np.roll(moved, 1)
    return places


def _moved(rows: Floats, places: NDArray[np.int64]) -> Floats:
    moved: Floats = rows[places]
    return moved


def _same(seen: tuple[Frame, Frame], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows come from the place of a near duplicate, in either space."""
    close = [
        np.vecdot(space.unit_anchors, space.unit_anchors[places]) >= NEAR_DUPLICATE_COSINE
        for space in seen
    ]
    return np.asarray(close[0] | close[1])
