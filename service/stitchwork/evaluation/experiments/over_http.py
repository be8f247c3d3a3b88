"""Predictions over HTTP against the same predictions computed directly."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np

from stitchwork.client import Stitchwork
from stitchwork.evaluation.experiments.methods import (
    DrawnSpace,
    RowTranslator,
    absolute_translator,
    bridge_translator,
    ordered_pairs,
)
from stitchwork.evaluation.experiments.probes import ProbeHead
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.geometry.bridges import BRIDGES, BridgeName

PREFIX: Final = "evaluate-check"
MAX_ROWS: Final = 200
MAX_PAIRS: Final = 20


def over_http(
    client: Stitchwork, study: Study, *, progress: ProgressCallback = ignore_progress
) -> Record:
    """Register spaces by anchors and linear heads by weights, and request every pair and bridge.

    Args:
        client: A service; what is registered is deleted again.
        study: A data set with labels.
        progress: Called for each pair.

    Returns:
        By bridge, the number of `predictions` and of those that `agreed` with the direct
        computation, with the head's own space as `native`; at most 20 pairs and 200 rows of each.
    """
    k, test_set = min(study.sizes), study.evaluation_set
    drawn = study.draw(k, 0)
    pairs = ordered_pairs(study.spaces)[:MAX_PAIRS]
    counts: dict[str, dict[str, int]] = {}
    ids = {space: f"{PREFIX}-{i}" for i, space in enumerate(study.spaces)}
    with ExitStack() as stack:
        for space in study.spaces:
            head = test_set.heads[space]["linear"]
            stack.enter_context(_registered(client, ids[space], drawn[space], head))
        for done, (x, y) in enumerate(pairs):
            progress(done, len(pairs))
            head, rows = test_set.heads[y]["linear"], test_set.rows[x][:MAX_ROWS]
            for name in BRIDGES:
                if name == "none" and drawn[x].frame.width != drawn[y].frame.width:
                    continue
                expected = head.predict(_direct_translator(name, drawn[x], drawn[y])(rows))
                predictions = client.classify(ids[y], rows, ids[x], name)
                labels = [int(prediction["label"]) for prediction in predictions]
                _count(counts, name, labels, expected.tolist())
        for space in study.spaces:
            head, rows = test_set.heads[space]["linear"], test_set.rows[space][:MAX_ROWS]
            predictions = client.classify(ids[space], rows, ids[space])
            labels = [int(prediction["label"]) for prediction in predictions]
            _count(counts, "native", labels, head.predict(rows).tolist())
    progress(len(pairs), len(pairs))
    return {"k": k, "pairs": len(pairs), "bridges": counts}


def _direct_translator(name: BridgeName, x: DrawnSpace, y: DrawnSpace) -> RowTranslator:
    if name == "none":
        return absolute_translator(y.frame.width)
    return bridge_translator(name, x, y)


def _count(
    counts: dict[str, dict[str, int]], name: str, labels: list[int], expected: list[int]
) -> None:
    of_bridge = counts.setdefault(name, {"predictions": 0, "agreed": 0})
    of_bridge["predictions"] += len(expected)
    of_bridge["agreed"] += int(np.sum(np.asarray(labels) == np.asarray(expected)))


@contextmanager
def _registered(client: Stitchwork, id_: str, space: DrawnSpace, head: ProbeHead) -> Iterator[None]:
    """A space and its head, registered under one id within the context."""
    client.put_space(id_, PREFIX, anchors=space.anchors)
    try:
        (layer,) = head.classifier.layers
        arrays = {name: np.asarray(array) for name, array in layer.arrays.items()}
        client.put_head(id_, id_, arrays=arrays, labels=[str(label) for label in head.classes])
        try:
            yield
        finally:
            client.delete("heads", id_)
    finally:
        client.delete("spaces", id_)
