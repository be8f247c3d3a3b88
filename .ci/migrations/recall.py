"""Compares the recall that an assessment predicts with that of the whole store, and its verdicts.

`python .ci/migrations/recall.py DATA CACHE`: stores of banking77, of 20 News, and of both. Prints a
line for each, and fails if a prediction is more than 0.03 off or a verdict on a planted fault is
wrong.
"""

import sys
from copy import copy
from pathlib import Path
from typing import Final

import numpy as np
from embeddings import embed
from interruptions import Floats
from numpy.typing import NDArray

from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.diagnostics.anchor_selection import choose_anchors
from stitchwork.geometry.frame import Frame, unit_rows
from stitchwork.migration.advice import StoreFacts, advise
from stitchwork.migration.assessment import Assessment, EmbeddedPairs, PairTranslations, assess

SAMPLE: Final = 2000
ANCHORS: Final = 1000
QUERIES: Final = 2500
MAX_ERROR: Final = 0.03
BRIDGE: Final = "exp"
BANKING: Final = ("banking77",)
MIXED: Final = ("banking77", "banking77-test", "20news")
CASES: Final = (
    (BANKING, "minilm", "use"),
    (BANKING, "minilm", "mpnet"),
    (("20news",), "minilm", "use"),
    (MIXED, "minilm", "use"),
)
"""Data sets of a store, the old and the new encoder; the last store is nine times the sample."""
Indices = NDArray[np.int64]


class Store:
    """A store, and the embeddings of all its texts by the new model.

    Args:
        old: (n, d_X) its rows.
        new: (n, d_Y) embeddings of their texts.
        anchors: Rows of two spaces as anchors; default: chosen from the store.
    """

    def __init__(
        self, old: Floats, new: Floats, anchors: tuple[Floats, Floats] | None = None
    ) -> None:
        self.old, self.new = old, new
        self.is_anchor = np.zeros(len(old), np.bool_)
        if anchors is None:
            pool = np.random.default_rng(0).permutation(len(old))[: 4 * ANCHORS]
            units = unit_rows(old[pool], old[pool].mean(axis=0))
            chosen = pool[[candidate.row for candidate in choose_anchors(units, ANCHORS)]]
            self.is_anchor[chosen] = True
            anchors = old[chosen], new[chosen]
        source, target = (
            FittedSpace(Frame.from_anchors(rows.astype(np.float64))) for rows in anchors
        )
        self._forward = compose(BRIDGE, source, target)
        self._backward = compose(BRIDGE, target, source)

    def of(self, old: Floats) -> "Store":
        """A store of other rows, with the same maps."""
        store = copy(self)
        store.old = old
        return store

    def assess(self, sample: int, seed: int) -> Assessment:
        """The assessment of a random sample."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.old))[:sample])
        pairs = EmbeddedPairs(self.old[rows], self.new[rows], self.is_anchor[rows])
        own = np.flatnonzero(~pairs.anchors)
        queries = pairs.new[own]
        translated = self._forward.apply(pairs.old).rows
        back = self._backward.apply(queries).rows
        translations = PairTranslations(translated, queries, back, own)
        return assess(pairs, translations, len(self.old), BRIDGE)

    def measure(self) -> tuple[float, float]:
        """Recall@10 among all rows, of translated queries and of the translated store."""
        own = np.flatnonzero(~self.is_anchor)
        own = np.random.default_rng(5).permutation(own)[:QUERIES]
        queries = self.new[own]
        expected = nearest(queries, self.new, own)
        old = nearest(self._backward.apply(queries).rows, self.old, own)
        moved = nearest(queries, self._forward.apply(self.old).rows, own)
        return overlap(expected, old), overlap(expected, moved)


def nearest(queries: Floats, rows: Floats, own: Indices) -> Indices:
    """(q, 10) the nearest rows of each query by their cosines, but its own."""
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, rows)]
    result = []
    for start in range(0, len(own), 250):
        part = own[start : start + 250]
        scores = units[0][start : start + 250] @ units[1].T
        scores[np.arange(len(part)), part] = -np.inf
        result.append(np.argpartition(-scores, 10, axis=1)[:, :10])
    return np.concatenate(result)


def overlap(expected: Indices, actual: Indices) -> float:
    """The mean share of common rows."""
    return float(np.mean((expected[:, :, None] == actual[:, None, :]).any(axis=2)))


def verdict(assessment: Assessment, store: Store) -> str:
    """The action that is advised."""
    facts = StoreFacts(len(store.old), "old", "new", ANCHORS, 0.0, 10_000.0, 50.0)
    return advise(assessment, facts).action


def check_faults(data: Path, cache: Path) -> None:
    """Check the verdicts on stores with planted faults."""
    old, new, other = (embed(data, cache, "banking77", e) for e in ("minilm", "use", "mpnet"))
    sound = Store(old, new)
    foreign = other[:, : old.shape[1]]
    half = np.where(np.arange(len(old))[:, None] % 2 == 0, old, foreign)
    strange = [embed(data, cache, "20news", e)[:ANCHORS] for e in ("minilm", "use")]
    cases = {
        "a sound store": (sound, "translate"),
        "a store of another model": (sound.of(foreign), "check-space"),
        "a store half of which is of another model": (sound.of(half), "separate-rows"),
        "anchors of another domain": (Store(old, new, (strange[0], strange[1])), "choose-anchors"),
    }
    for name, (store, expected) in cases.items():
        result = store.assess(SAMPLE, 1)
        action = verdict(result, store)
        print(f"{name}: {action}, foreign share {result.foreign_share:.2f}")
        assert action == expected, (name, action)


def main(data: Path, cache: Path) -> None:
    """Compare all."""
    errors = []
    for names, *encoders in CASES:
        old, new = (
            np.concatenate([embed(data, cache, name, encoder) for name in names])
            for encoder in encoders
        )
        store = Store(old, new)
        measured = store.measure()
        for seed in (1, 2):
            result = store.assess(min(SAMPLE, len(old) // 4), seed)
            for way, actual, prediction in zip(
                ("queries", "store"), measured, (result.queries, result.store), strict=True
            ):
                error = prediction.recall - actual
                errors.append(abs(error))
                print(
                    f"{' and '.join(names)}, {len(old):,} rows, {' to '.join(encoders)}, {way}: "
                    f"predicted {prediction.recall:.3f} ({prediction.low:.3f} to "
                    f"{prediction.high:.3f}), measured {actual:.3f}, error {error:+.3f}"
                )
    check_faults(data, cache)
    assert max(errors) <= MAX_ERROR, max(errors)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
