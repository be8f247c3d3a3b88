"""Which anchors are taken: random draws against choices from the same pool."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.experiments.methods import (
    DrawnSpace,
    bridge_translator,
    draw_anchors,
    ordered_pairs,
)
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.diagnostics.anchor_selection import choose_anchors
from stitchwork.geometry.frame import unit_rows

COUNTS: Final = (100, 300, 1000)
POOL_SHARE: Final = 0.8
"""Share of the training rows in the pool of a draw, so that draws of choices differ."""
RANDOM: Final = "random"


def kernel_herding(unit: Floats, count: int) -> NDArray[np.int64]:
    """The service's choice."""
    return np.asarray([step.row for step in choose_anchors(unit, count)], np.int64)


def k_means_medoids(unit: Floats, count: int) -> NDArray[np.int64]:
    """The rows closest to the centres of k-means, without repetition."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=2048).fit(unit)
    distances = -unit @ model.cluster_centers_.T
    nearest = np.unique(distances.argmin(axis=0))
    rest = np.setdiff1d(np.arange(len(unit)), nearest)
    return np.concatenate([nearest, rest[: count - len(nearest)]])


def farthest_first(unit: Floats, count: int) -> NDArray[np.int64]:
    """Rows that are farthest from those before, starting with the first."""
    chosen, closest = [0], unit @ unit[0]
    while len(chosen) < count:
        chosen.append(int(closest.argmin()))
        closest = np.maximum(closest, unit @ unit[chosen[-1]])
    return np.asarray(chosen, np.int64)


CHOICES: Final[Mapping[str, Callable[[Floats, int], NDArray[np.int64]]]] = {
    "kernel herding": kernel_herding,
    "k-means medoids": k_means_medoids,
    "farthest first": farthest_first,
}
"""Functions that choose rows of a pool (n, d) of unit rows of one space."""


def choosing(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """Each choice and a random draw, from one pool for each draw.

    Choices see the pool's rows in the first space alone, and no labels.

    Args:
        study: The data set; without labels no accuracy is measured.
        progress: Called for each choice at each number of anchors.

    Returns:
        `reference`, the space in which anchors are chosen, and `records`: for each number of
        anchors `k`, `draw`, `choice` and ordered pair what `EvaluationSet.measure` returns for the
        default bridge.
    """
    settings, train = study.settings, study.embedded.train
    reference = study.spaces[0]
    size = int(POOL_SHARE * len(train))
    counts = [k for k in COUNTS if k <= size // 2]
    names = (RANDOM, *CHOICES)
    total, records = len(counts) * settings.draws * len(names), list[Record]()
    for number in range(settings.draws):
        pool = draw_anchors(train, size, settings.seed, number)
        rows = study.embedded.rows[reference][pool]
        unit = unit_rows(rows, rows.mean(axis=0))
        for name in names:
            # A smaller number of anchors is the beginning of a larger one, or its own clustering.
            for k in counts:
                chosen = np.arange(k) if name == RANDOM else CHOICES[name](unit, k)
                records += _measure(study, pool[chosen], {"k": k, "draw": number, "choice": name})
                progress(len(records) // max(1, len(ordered_pairs(study.spaces))), total)
    return {"reference": reference, "pool": size, "records": records}


def _measure(study: Study, indices: NDArray[np.int64], key: dict[str, Any]) -> list[Record]:
    drawn = {space: DrawnSpace(rows[indices]) for space, rows in study.embedded.rows.items()}
    return [
        {
            **key,
            "source": x,
            "target": y,
            **study.evaluation_set.measure(
                x, y, drawn[y], bridge_translator(DEFAULT_BRIDGE, drawn[x], drawn[y])
            ),
        }
        for x, y in ordered_pairs(study.spaces)
    ]
