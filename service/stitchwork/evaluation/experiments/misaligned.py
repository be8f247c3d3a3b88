"""Detection of misaligned anchor pairs: precision and recall on swapped anchors."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.geometry.diagnostics.misalignment import misaligned_pairs
from stitchwork.geometry.diagnostics.redundancy import NEAR_DUPLICATE_COSINE
from stitchwork.geometry.frame import Frame

SIZES: Final = (300, 1000, 1500)
SHARE: Final = 0.05
"""Of the anchors, permuted among themselves."""


def misaligned(embedded: EmbeddedCorpus, seeds: Sequence[int]) -> dict[str, Any]:
    """Both spaces of each pair on the same anchors, once with 5% of the second's swapped.

    Args:
        embedded: The data set; anchors are drawn from its training rows.
        seeds: One draw of anchors, and of those to swap, for each.

    Returns:
        `records`: by pair of spaces and number of anchors, over all seeds, how many were `swapped`
        (without those that took the place of a near duplicate, which changes nothing), how many of
        them were `detected`, how many others were reported (`false_positives`), `precision` and
        `recall`; and `clean_positives`, how many were reported where nothing was swapped, of
        `clean` anchors in all.
    """
    sizes = [k for k in SIZES if k <= len(embedded.train)]
    records = [
        _pair_record(embedded, pair, k, seeds)
        for pair in combinations(embedded.rows, 2)
        for k in sizes
    ]
    return {"share": SHARE, "seeds": list(seeds), "records": records}


def _pair_record(
    embedded: EmbeddedCorpus, pair: tuple[str, str], k: int, seeds: Sequence[int]
) -> dict[str, Any]:
    swapped = detected = false_positives = clean_positives = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        indices = rng.permutation(embedded.train)[:k]
        x, y = (embedded.rows[space][indices] for space in pair)
        frames = Frame.from_anchors(x), Frame.from_anchors(y)
        clean_positives += len(misaligned_pairs(*frames))
        positions = _source_positions(k, rng)
        is_swapped = positions != np.arange(k)
        counted = is_swapped & ~_near_duplicates(frames, positions)
        reported = np.zeros(k, np.bool_)
        permuted = Frame.from_anchors(_permuted(y, positions))
        reported[[suspect.pair for suspect in misaligned_pairs(frames[0], permuted)]] = True
        swapped += int(counted.sum())
        detected += int((reported & counted).sum())
        false_positives += int((reported & ~is_swapped).sum())
    return {
        "spaces": list(pair),
        "anchors": k,
        "swapped": swapped,
        "detected": detected,
        "false_positives": false_positives,
        "precision": detected / max(1, detected + false_positives),
        "recall": detected / max(1, swapped),
        "clean_positives": clean_positives,
        "clean": k * len(seeds),
    }


def _source_positions(k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Where each row comes from: a random few of them from the next one among these."""
    positions = np.arange(k)
    moved = rng.permutation(k)[: round(SHARE * k)]
    positions[moved] = np.roll(moved, 1)
    return positions


def _permuted(rows: Floats, positions: NDArray[np.int64]) -> Floats:
    permuted: Floats = rows[positions]
    return permuted


def _near_duplicates(
    frames: tuple[Frame, Frame], positions: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rows come from the position of a near duplicate, in either space."""
    units = [frame.unit_anchors for frame in frames]
    close = [np.vecdot(unit, unit[positions]) >= NEAR_DUPLICATE_COSINE for unit in units]
    return np.asarray(close[0] | close[1])
