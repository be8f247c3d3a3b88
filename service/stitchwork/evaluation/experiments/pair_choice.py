"""Which method a pair of spaces should use, by anchors that are held out."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.experiments.measures import (
    cosines,
    store_neighbours,
    store_overlaps,
)
from stitchwork.evaluation.experiments.methods import (
    KERNEL_RIDGE,
    KERNEL_RIDGE_WHITENED,
    PROCRUSTES,
    DrawnSpace,
    draw_anchors,
    method_translator,
    ordered_pairs,
)
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
    map_in_threads,
)

CANDIDATES: Final = (
    "exp",
    "ridge",
    "ridge-whitened",
    PROCRUSTES,
    KERNEL_RIDGE,
    KERNEL_RIDGE_WHITENED,
)
FOLDS: Final = 3


def pair_choice(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """Cross-validated scores of every candidate on the anchors of each draw of `translation`.

    Args:
        study: The data set. Neither test rows nor labels are used.
        progress: Called for each draw.

    Returns:
        `records`: for each number of anchors, draw, ordered pair and method the mean cosine about
        the anchors' mean (`centred`) and the overlaps `mq`, `ms` and `mqx` among the anchors, each
        translated by a map that was fitted on the other folds.
    """
    settings, sizes, records = study.settings, study.sizes, list[Record]()
    total = len(sizes) * settings.draws
    for k in sizes:
        for number in range(settings.draws):
            indices = draw_anchors(study.embedded.train, k, settings.seed, number)
            anchors = {space: rows[indices] for space, rows in study.embedded.rows.items()}
            records += [{"k": k, "draw": number, **score} for score in _scores(anchors)]
            progress(len(records) // (len(CANDIDATES) * len(ordered_pairs(study.spaces))), total)
    return {"folds": FOLDS, "records": records}


def _scores(anchors: Mapping[str, Floats]) -> list[Record]:
    """Scores of every ordered pair and candidate."""
    neighbours = {space: store_neighbours(rows) for space, rows in anchors.items()}
    pairs = ordered_pairs(list(anchors))
    folds = np.arange(len(next(iter(anchors.values())))) % FOLDS
    translated = {
        (x, y, method): np.zeros_like(anchors[y]) for x, y in pairs for method in CANDIDATES
    }
    for fold in range(FOLDS):
        _translate(anchors, folds == fold, translated)

    def score(key: tuple[str, str, str]) -> Record:
        x, y, method = key
        rows, true = translated[key], anchors[y]
        measures = {"centred": cosines(rows, true, true.mean(axis=0))}
        measures |= store_overlaps(rows, true, neighbours[x], neighbours[y])._asdict()
        rounded = {name: round(value, 6) for name, value in measures.items()}
        return {"source": x, "target": y, "method": method, **rounded}

    return list(map_in_threads(score, translated))


def _translate(
    anchors: Mapping[str, Floats],
    excluded: NDArray[np.bool_],
    translated: Mapping[tuple[str, str, str], Floats],
) -> None:
    """Write the held-out anchors, translated by maps that were fitted on the others."""
    drawn = {space: DrawnSpace(rows[~excluded]) for space, rows in anchors.items()}
    for (x, y, method), rows in translated.items():
        translate = method_translator(method, drawn[x], drawn[y])
        rows[excluded] = translate(anchors[x][excluded])
