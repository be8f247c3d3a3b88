"""What moving a store gives, from a sample of its rows and embeddings of the same texts."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.geometry.bridges import BridgeName, FactorParameters, FittedSpace, compose
from stitchwork.geometry.diagnostics.recall_prediction import (
    MIN_ROWS,
    RecallPrediction,
    predict_recall,
    recall_at_size,
)
from stitchwork.geometry.frame import Frame, unit_rows

MIN_ANCHORS: Final = 32
CURVE_SIZES: Final = 4
"""Each has twice the anchors of the one before."""

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPairs:
    """Rows of a store, and embeddings of the same texts by the new model.

    Attributes:
        old: (m, d_X) rows of the store.
        new: (m, d_Y) embeddings of their texts.
        anchors: (m,) bool, rows that are anchors: they are found, but are no queries.
    """

    old: Floats
    new: Floats
    anchors: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.old)


@dataclass(frozen=True, slots=True, eq=False)
class PairTranslations:
    """Rows of the sample and queries in the space of the other model.

    Attributes:
        rows: (m, d_Y) rows of the store in the new space: translations, or what a move wrote.
        queries: (q, d_Y) queries by the new model.
        queries_in_old: (q, d_X) their translations into the old space.
        own: (q,) index of the row that a query is itself; −1 where it is none.
    """

    rows: Floats
    queries: Floats
    queries_in_old: Floats
    own: Indices


class AnchorCurvePoint(NamedTuple):
    """Recall with anchors that are random rows of the store.

    Attributes:
        anchors: Their number.
        queries: Recall@10 of translated queries in the store as it is.
        store: Recall@10 of the new model's queries in the translated store.
    """

    anchors: int
    queries: float
    store: float


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """How well a store is searched after each way of changing its model.

    Recall@10 is the share of the ten rows nearest to a query, had everything been embedded anew,
    that the search returns.

    Attributes:
        queries: Of the new model's queries, translated into the old space: nothing is moved.
        store: Of the new model's queries in the translated store.
        similarities: (m,) cosine about their mean of each row and the embedding of its text.
        foreign_share: Share of the rows that have nothing in common with the embedding of their
            text, as rows of another model have.
        curve: Recall by the number of anchors, of rows of this store.
    """

    queries: RecallPrediction
    store: RecallPrediction
    similarities: Floats
    foreign_share: float
    curve: tuple[AnchorCurvePoint, ...]


def assess(
    pairs: EmbeddedPairs, translations: PairTranslations, size: int, bridge: BridgeName
) -> Assessment:
    """Assess a move.

    Args:
        pairs: A random sample of the store.
        translations: Their translations, and the queries.
        size: Number of rows of the store.
        bridge: The bridge of the translations.

    Raises:
        InvalidInputError: If there are fewer than 100 rows or 20 queries.
    """
    own = translations.own
    expected = _cosines(translations.queries, pairs.new)
    mean = pairs.new.mean(axis=0)
    cosines = unit_rows(translations.rows, mean) @ unit_rows(pairs.new, mean).T
    return Assessment(
        predict_recall(expected, _cosines(translations.queries_in_old, pairs.old), size, own),
        predict_recall(expected, _cosines(translations.queries, translations.rows), size, own),
        np.diagonal(cosines).copy(),
        _foreign_share(cosines),
        anchor_curve(pairs, size, bridge),
    )


def anchor_curve(
    pairs: EmbeddedPairs, size: int, bridge: BridgeName
) -> tuple[AnchorCurvePoint, ...]:
    """Recall@10 by the number of anchors, where these are rows of the store.

    Args:
        pairs: A random sample of the store: one half serves as anchors, the other as rows.
        size: Number of rows of the store.
        bridge: The bridge, with its default parameters.

    Returns:
        Up to four numbers of anchors, the last one half of the sample; none where the sample has
        fewer than 200 rows.
    """
    half = len(pairs) // 2
    if len(pairs) - half < MIN_ROWS:
        return ()
    order = np.random.default_rng(0).permutation(len(pairs))
    rows = order[half:]
    own = np.arange(len(rows))
    expected = _cosines(pairs.new[rows], pairs.new[rows])
    points = []
    for step in range(CURVE_SIZES - 1, -1, -1):
        count = half >> step
        if count < MIN_ANCHORS:
            continue
        old, new = (
            FittedSpace(Frame.from_anchors(side[order[:count]]), FactorParameters())
            for side in (pairs.old, pairs.new)
        )
        into_old = compose(bridge, new, old).apply(pairs.new[rows]).rows
        into_new = compose(bridge, old, new).apply(pairs.old[rows]).rows
        queries = recall_at_size(expected, _cosines(into_old, pairs.old[rows]), size, own)
        store = recall_at_size(expected, _cosines(pairs.new[rows], into_new), size, own)
        points.append(AnchorCurvePoint(count, queries, store))
    return tuple(points)


def _foreign_share(cosines: Floats) -> float:
    """Share of rows unrelated to their own column, whose place among all columns is uniform.

    Half of these have it in the lower half, and a quarter in the last quarter. Rows that are
    translated badly have it rather in the middle, so the smaller estimate counts.

    Source:
        Storey, A direct approach to false discovery rates, 2002: the share of true null hypotheses.
    """
    own = np.diagonal(cosines)
    place = np.mean(cosines > own[:, None], axis=1)
    return float(min(1.0, 2 * np.mean(place > 0.5), 4 * np.mean(place > 0.75)))


def _cosines(queries: Floats, rows: Floats) -> Floats:
    units = (unit_rows(side, np.zeros(side.shape[1], np.float32)) for side in (queries, rows))
    first, second = units
    return np.asarray(first @ second.T, np.float32)
