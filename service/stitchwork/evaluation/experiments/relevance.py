"""Stores of judged documents, moved: what a searcher finds, as a share of embedding anew."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.experiments.measures import nearest, overlap
from stitchwork.evaluation.experiments.methods import (
    METHODS,
    DrawnSpace,
    PeerFunction,
    method_translator,
    ordered_pairs,
)
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.evaluation.experiments.translation import NO_PEERS
from stitchwork.geometry.frame import unit_rows

TOP: Final = 10
STORE_SHARE: Final = 0.5
"""Share of the documents that are searched; anchors are drawn from the others."""
UNTUNED: Final = tuple(name for name in METHODS if not name.startswith("irp"))
"""Methods without δ and ω, for which no validation queries are left."""


def ndcg10(scores: Floats, gains: Floats) -> NDArray[np.float64]:
    """nDCG@10 of each query that has a document of gain.

    Args:
        scores: (q, m) what documents are ranked by.
        gains: (q, m) judged gains, 0 where a document is of no use.

    Returns:
        (r,) in [0, 1], for the r queries with a positive gain, in their order.

    Source:
        Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002.
    """
    judged = gains.max(axis=1) > 0
    scores, gains = scores[judged], gains[judged].astype(np.float64)
    depth = min(TOP, scores.shape[1])
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    ideal = -np.sort(-gains, axis=1)[:, :depth]
    result: NDArray[np.float64] = (np.take_along_axis(gains, order, axis=1) @ discounts) / (
        ideal @ discounts
    )
    return result


@dataclass(frozen=True, slots=True, eq=False)
class JudgedStore:
    """Queries and a store in every space, by cosine about the origin.

    Attributes:
        queries: By space: (q, d) float32.
        documents: By space: (m, d) float32.
        gains: (q, m) float32.
    """

    queries: Mapping[str, Floats]
    documents: Mapping[str, Floats]
    gains: Floats
    _own: dict[str, Floats] = field(default_factory=dict)

    def own_scores(self, space: str) -> Floats:
        """(q, m) cosines within a space: what embedding anew gives."""
        if space not in self._own:
            self._own[space] = _scores(self.queries[space], self.documents[space])
        return self._own[space]

    def native(self, space: str) -> float:
        """Mean nDCG@10 of a space's own queries in its own store."""
        return float(np.mean(ndcg10(self.own_scores(space), self.gains)))

    def measure(self, x: str, y: str, documents: Floats, queries: Floats | None) -> Record:
        """A move in both ways.

        Args:
            x: The source.
            y: The target.
            documents: (m, d) documents of x, translated to y: a store moved to a new model y.
            queries: (q, d) queries of x, translated to y: a new model x searches the old store;
                None where a program compares rows only.

        Returns:
            `store_ndcg10` and `query_ndcg10`, and their shares of embedding anew by the new model;
            overlaps `ms`, `mq` and `mqx` of the ten nearest documents.
        """
        scores = _scores(self.queries[y], documents)
        result = {"store_ndcg10": float(np.mean(ndcg10(scores, self.gains)))}
        result["store_share"] = result["store_ndcg10"] / self.native(y)
        result["ms"] = overlap(nearest(scores, TOP), nearest(self.own_scores(y), TOP))
        if queries is not None:
            scores = _scores(queries, self.documents[y])
            retrieved = nearest(scores, TOP)
            result["query_ndcg10"] = float(np.mean(ndcg10(scores, self.gains)))
            result["query_share"] = result["query_ndcg10"] / self.native(x)
            result["mq"] = overlap(retrieved, nearest(self.own_scores(y), TOP))
            result["mqx"] = overlap(retrieved, nearest(self.own_scores(x), TOP))
        return {name: round(value, 6) for name, value in result.items()}


def relevance(
    study: Study,
    *,
    peers: Mapping[str, PeerFunction] = NO_PEERS,
    progress: ProgressCallback = ignore_progress,
) -> Record:
    """Every ordered pair, number of anchors, draw and method on judged documents.

    Each draw splits the documents anew: one half is searched, and anchors come from the other.

    Args:
        study: A data set with judgements, whose test rows are queries and whose training rows are
            documents.
        peers: Other programs that translate.
        progress: Called for each pair at each draw.

    Returns:
        `sizes`, the number of `documents` searched, `records` of one measurement each as
        `JudgedStore.measure`, and `native`: nDCG@10 by draw and space.

    Raises:
        InvalidInputError: If the data set has no judgements.
    """
    embedded, settings = study.embedded, study.settings
    if embedded.judgements is None:
        raise InvalidInputError(f"{embedded.name} has no judgements")
    size = round(STORE_SHARE * len(embedded.train))
    sizes = settings.sizes(len(embedded.train) - size)
    pairs, records, native = ordered_pairs(study.spaces), list[Record](), list[Record]()
    total = settings.draws * len(sizes) * len(pairs)
    for number in range(settings.draws):
        order = np.random.default_rng((settings.seed, number)).permutation(len(embedded.train))
        searched, pool = order[:size], order[size:]
        store = JudgedStore(
            {name: rows[embedded.test] for name, rows in embedded.rows.items()},
            {name: rows[embedded.train[searched]] for name, rows in embedded.rows.items()},
            embedded.judgements[:, searched],
        )
        native += [
            {"draw": number, "space": space, "ndcg10": round(store.native(space), 6)}
            for space in study.spaces
        ]
        for k in sizes:
            anchors = embedded.train[pool[:k]]
            drawn = {name: DrawnSpace(rows[anchors]) for name, rows in embedded.rows.items()}
            for x, y in pairs:
                key = {"k": k, "draw": number, "source": x, "target": y}
                records += [
                    {**key, "method": method, **values}
                    for method, values in _measure(store, drawn, x, y, peers)
                ]
                progress(len(records) // (len(UNTUNED) + len(peers)), total)
    return {"sizes": sizes, "documents": size, "native": native, "records": records}


def _measure(
    store: JudgedStore,
    drawn: Mapping[str, DrawnSpace],
    x: str,
    y: str,
    peers: Mapping[str, PeerFunction],
) -> Iterator[tuple[str, dict[str, Any]]]:
    for method in UNTUNED:
        translate = method_translator(method, drawn[x], drawn[y])
        documents, queries = translate(store.documents[x]), translate(store.queries[x])
        yield method, store.measure(x, y, documents, queries)
    for name, peer in peers.items():
        both = np.concatenate([store.documents[x], store.queries[x]])
        rows, database = peer(drawn[x].anchors, drawn[y].anchors, both, store.queries[y])
        if database.shape == store.queries[y].shape and np.array_equal(database, store.queries[y]):
            count = len(store.documents[x])
            yield name, store.measure(x, y, rows[:count], rows[count:])


def _scores(queries: Floats, documents: Floats) -> Floats:
    origin = np.zeros(queries.shape[1], np.float32)
    scores: Floats = unit_rows(queries, origin) @ unit_rows(documents, origin).T
    return scores
