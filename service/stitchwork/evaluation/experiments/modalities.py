"""Translation across modalities, with controls that show what the result depends on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.evaluation.experiments.methods import (
    ABSOLUTE,
    PROCRUSTES,
    RIDGE_BOTH,
    TRANSLATING_BRIDGES,
    DrawnSpace,
    draw_anchors,
    method_translator,
)
from stitchwork.evaluation.experiments.study import (
    EvaluationSet,
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
    map_in_threads,
)

METHODS: Final = (ABSOLUTE, *TRANSLATING_BRIDGES, RIDGE_BOTH, PROCRUSTES)
GROUP_SHARE: Final = 0.25
"""Share of the groups that are tested on and never trained on under `WHOLE_GROUPS`."""
AS_IS: Final = "as is"
WHOLE_GROUPS: Final = "whole groups held out"
SHUFFLED: Final = "pairs shuffled"


def applies(study: Study) -> bool:
    """Whether the spaces are of more than one modality."""
    return len(set(study.embedded.modality.values())) > 1


def modalities(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """All pairs of spaces of different modalities, in both directions, with and without controls.

    Anchors are as many as the training rows allow. Under `whole groups held out` a quarter of the
    finer groups, such as the subgroups of emoji, is in no anchor and no head, and only these are
    tested on. Under `pairs shuffled` the source's anchors are in another order.

    Args:
        study: The data set.
        progress: Called for each pair.

    Returns:
        `records` by control, pair, method and draw; `conditions` by control: native accuracies of
        its own heads and test rows, the numbers of rows tested on and in the gallery, and what
        chance gives.
    """
    modality = study.embedded.modality
    pairs = [(x, y) for x in study.spaces for y in study.spaces if modality[x] != modality[y]]
    records: list[Record] = []
    conditions: dict[str, Record] = {}
    controls = list(_control_studies(study))
    total, done = len(controls) * study.settings.draws * len(pairs), 0
    for name, control in controls:
        test_set, k = control.evaluation_set, max(control.sizes)
        conditions[name] = {"k": k, "native": test_set.native_accuracies(), **_chance(control)}
        for number in range(study.settings.draws):
            targets = control.draw(k, number)
            sources = _shuffled(control, k, number) if name == SHUFFLED else targets
            for spaces in (targets, sources):
                for _ in map_in_threads(DrawnSpace.prepare, spaces.values()):
                    pass

            def measure(
                pair: tuple[str, str],
                test_set: EvaluationSet = test_set,
                targets: dict[str, DrawnSpace] = targets,
                sources: dict[str, DrawnSpace] = sources,
            ) -> list[Record]:
                x, y = pair
                return [
                    {
                        "method": method,
                        **test_set.measure(
                            x, y, targets[y], method_translator(method, sources[x], targets[y])
                        ),
                    }
                    for method in METHODS
                ]

            for (x, y), measured in zip(pairs, map_in_threads(measure, pairs), strict=True):
                labels = {"control": name, "draw": number, "source": x, "target": y}
                records += [{**labels, **record} for record in measured]
                done += 1
                progress(done, total)
    modality_of = {space: modality[space] for space in study.spaces}
    return {"modality": modality_of, "conditions": conditions, "records": records}


def _control_studies(study: Study) -> Iterator[tuple[str, Study]]:
    yield AS_IS, study
    yield SHUFFLED, study
    groups = study.embedded.groups
    if groups is None:
        return
    names = np.random.default_rng(study.settings.seed).permutation(np.unique(groups))
    is_test = np.isin(groups, names[: max(1, round(GROUP_SHARE * len(names)))])
    rows: NDArray[np.int64] = np.concatenate([study.embedded.train, study.embedded.test])
    train, test = rows[~is_test[rows]], rows[is_test[rows]]
    if len(train) > 1 and len(test) > 1:
        yield WHOLE_GROUPS, Study(replace(study.embedded, train=train, test=test), study.settings)


def _shuffled(study: Study, k: int, number: int) -> dict[str, DrawnSpace]:
    """The same anchors in another order, so that pairs do not belong together."""
    settings = study.settings
    indices = draw_anchors(study.embedded.train, k, settings.seed, number)
    indices = np.random.default_rng((settings.seed, number, k, 1)).permutation(indices)
    return {space: DrawnSpace(rows[indices]) for space, rows in study.embedded.rows.items()}


def _chance(study: Study) -> Record:
    test_set = study.evaluation_set
    rows = len(next(iter(test_set.rows.values())))
    gallery = min(rows, test_set.gallery_size)
    labels = test_set.labels
    share = None if labels is None else float(np.max(np.bincount(labels)) / len(labels))
    chance = {"largest class": share, "recall1": 1 / gallery, "recall10": min(1.0, 10 / gallery)}
    return {"rows": rows, "gallery": gallery, "chance": chance}
