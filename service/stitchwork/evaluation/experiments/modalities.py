"""Across modalities, with the controls that tell what the result is made of."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.evaluation.experiments.methods import (
    ABSOLUTE,
    PROCRUSTES,
    RIDGE_BOTH,
    SERVED,
    Fitted,
    draw,
    method,
)
from stitchwork.evaluation.experiments.study import (
    Bench,
    Record,
    Study,
    Told,
    quietly,
    side_by_side,
)

METHODS: Final = (ABSOLUTE, *SERVED, RIDGE_BOTH, PROCRUSTES)
HELD_OUT: Final = 0.25
"""Share of the groups that the control without them holds out."""
AS_IS: Final = "as is"
NO_GROUP: Final = "whole groups held out"
SHUFFLED: Final = "pairs shuffled"


def applies(study: Study) -> bool:
    """Whether the spaces are of more than one modality."""
    return len(set(study.embedded.modality.values())) > 1


def modalities(study: Study, *, progress: Told = quietly) -> Record:
    """All pairs of spaces of different modalities, both ways, as they are and under controls.

    Anchors are as many as the training rows allow. Under `whole groups held out` a quarter of the
    finer groups, such as the subgroups of emoji, is in no anchor and no head, and only they are
    tested on. Under `pairs shuffled` the source's anchors are put in another order.

    Args:
        study: The data set.
        progress: Told of each pair.

    Returns:
        `records` by control, pair, method and draw; `native` accuracies by control, their own
        heads and test rows; `rows` tested on and in the gallery, and what `chance` gives.
    """
    modality = study.embedded.modality
    crossing = [(x, y) for x in study.spaces for y in study.spaces if modality[x] != modality[y]]
    records: list[Record] = []
    conditions: dict[str, Record] = {}
    jobs = list(_conditions(study))
    total, done = len(jobs) * study.settings.draws * len(crossing), 0
    for name, under in jobs:
        bench, k = under.bench, max(under.sizes)
        conditions[name] = {"k": k, "native": bench.native(), **_chance(under)}
        for number in range(study.settings.draws):
            fitted = under.anchors(k, number)
            sources = _shuffled(under, k, number) if name == SHUFFLED else fitted
            for side in (fitted, sources):
                for _ in side_by_side(Fitted.prepare, side.values()):
                    pass

            def measured(
                pair: tuple[str, str],
                bench: Bench = bench,
                fitted: dict[str, Fitted] = fitted,
                sources: dict[str, Fitted] = sources,
            ) -> list[Record]:
                x, y = pair
                return [
                    {
                        "method": way,
                        **bench.measure(x, y, fitted[y], method(way, sources[x], fitted[y])),
                    }
                    for way in METHODS
                ]

            for (x, y), found in zip(crossing, side_by_side(measured, crossing), strict=True):
                of = {"control": name, "draw": number, "source": x, "target": y}
                records += [{**of, **one} for one in found]
                done += 1
                progress(done, total)
    spaces = {space: modality[space] for space in study.spaces}
    return {"modality": spaces, "conditions": conditions, "records": records}


def _conditions(study: Study) -> Iterator[tuple[str, Study]]:
    yield AS_IS, study
    yield SHUFFLED, study
    groups = study.embedded.groups
    if groups is None:
        return
    names = np.random.default_rng(study.settings.seed).permutation(np.unique(groups))
    held = np.isin(groups, names[: max(1, round(HELD_OUT * len(names)))])
    known: NDArray[np.int64] = np.concatenate([study.embedded.train, study.embedded.test])
    left, tested = known[~held[known]], known[held[known]]
    if len(left) > 1 and len(tested) > 1:
        yield NO_GROUP, Study(replace(study.embedded, train=left, test=tested), study.settings)


def _shuffled(study: Study, k: int, number: int) -> dict[str, Fitted]:
    """The same anchors in another order, which pairs every one with some other's."""
    settings = study.settings
    at = draw(study.embedded.train, k, settings.seed, number)
    at = np.random.default_rng((settings.seed, number, k, 1)).permutation(at)
    return {space: Fitted(rows[at]) for space, rows in study.embedded.rows.items()}


def _chance(study: Study) -> Record:
    bench = study.bench
    rows = len(next(iter(bench.rows.values())))
    gallery = min(rows, bench.gallery)
    labels = bench.labels
    share = None if labels is None else float(np.max(np.bincount(labels)) / len(labels))
    chance = {"largest class": share, "recall1": 1 / gallery, "recall10": min(1.0, 10 / gallery)}
    return {"rows": rows, "gallery": gallery, "chance": chance}
