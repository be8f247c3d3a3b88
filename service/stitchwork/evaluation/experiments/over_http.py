"""That the service answers what the experiments computed: the same pairs, over HTTP."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np

from stitchwork.client import Stitchwork
from stitchwork.evaluation.experiments.methods import Fitted, Translate, absolute, bridge, pairs
from stitchwork.evaluation.experiments.probes import Head
from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly
from stitchwork.geometry.bridges import BRIDGES, BridgeName

PREFIX: Final = "evaluate-check"
ROWS: Final = 200
MOST_PAIRS: Final = 20


def over_http(client: Stitchwork, study: Study, *, progress: Told = quietly) -> Record:
    """Spaces by their anchors and linear heads by their weights, asked for every pair and bridge.

    Args:
        client: A service; what is registered is taken away again.
        study: A data set with labels.
        progress: Told of each pair.

    Returns:
        By bridge, rows `asked` about and `agreed` on with the direct computation, with the head's
        own space as `native`; at most 20 pairs and 200 rows of each.
    """
    k, bench = min(study.sizes), study.bench
    fitted = study.anchors(k, 0)
    ordered = pairs(study.spaces)[:MOST_PAIRS]
    told: dict[str, dict[str, int]] = {}
    ids = {space: f"{PREFIX}-{i}" for i, space in enumerate(study.spaces)}
    with ExitStack() as stack:
        for space in study.spaces:
            head = bench.heads[space]["linear"]
            stack.enter_context(_registered(client, ids[space], fitted[space], head))
        for done, (x, y) in enumerate(ordered):
            progress(done, len(ordered))
            head, rows = bench.heads[y]["linear"], bench.rows[x][:ROWS]
            for name in BRIDGES:
                if name == "none" and fitted[x].seen.width != fitted[y].seen.width:
                    continue
                expected = head.classes(_direct(name, fitted[x], fitted[y])(rows))
                answers = client.classify(ids[y], rows, ids[x], name)
                _count(told, name, [int(one["label"]) for one in answers], expected.tolist())
        for space in study.spaces:
            head, rows = bench.heads[space]["linear"], bench.rows[space][:ROWS]
            answers = client.classify(ids[space], rows, ids[space])
            found = [int(one["label"]) for one in answers]
            _count(told, "native", found, head.classes(rows).tolist())
    progress(len(ordered), len(ordered))
    return {"k": k, "pairs": len(ordered), "bridges": told}


def _direct(name: BridgeName, x: Fitted, y: Fitted) -> Translate:
    return absolute(y.seen.width) if name == "none" else bridge(name, x, y)


def _count(
    told: dict[str, dict[str, int]], name: str, found: list[int], expected: list[int]
) -> None:
    counts = told.setdefault(name, {"asked": 0, "agreed": 0})
    counts["asked"] += len(expected)
    counts["agreed"] += int(np.sum(np.asarray(found) == np.asarray(expected)))


@contextmanager
def _registered(client: Stitchwork, id_: str, fitted: Fitted, head: Head) -> Iterator[None]:
    """A space and its head under one id, for as long as they are asked."""
    client.put_space(id_, PREFIX, anchors=fitted.anchors)
    try:
        ((weight, bias),) = head.classifier.layers
        arrays = {"weight": np.asarray(weight), "bias": np.asarray(bias)}
        client.put_head(id_, id_, arrays=arrays, labels=[str(label) for label in head.order])
        try:
            yield
        finally:
            client.delete("heads", id_)
    finally:
        client.delete("spaces", id_)
