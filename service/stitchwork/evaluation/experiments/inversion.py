"""Intra- and inter-space inversion: how much of a space is reconstructed through the anchors."""

from typing import Final

from stitchwork.evaluation.experiments.measures import cosines
from stitchwork.evaluation.experiments.methods import (
    TRANSLATING_BRIDGES,
    DrawnSpace,
    RowTranslator,
    irp_translator,
    method_translator,
)
from stitchwork.evaluation.experiments.pruning import PruningSetting
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.geometry.diagnostics.space_metrics import agreement

UNPRUNED_IRP: Final = "irp, unpruned"
UNPRUNED: Final = PruningSetting(0.0, 1)
MAX_ANCHORS: Final = 1500


def inversion(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """Reconstruction similarity between all spaces, including each with itself.

    From a space to itself rows go through the bridge as to any other: read and written by the
    space's own factors.

    Args:
        study: The data set.
        progress: Called for each target.

    Returns:
        By method a (source × target) matrix of mean cosine over the test rows, about the origin
        (`similarity`) and about the anchors' mean (`centred`); and the `agreement` of the anchors'
        own cosines.
    """
    spaces = study.spaces
    k = min(MAX_ANCHORS, max(study.sizes))
    drawn = study.draw(k, 0)
    names = (UNPRUNED_IRP, *TRANSLATING_BRIDGES)
    cells: dict[str, dict[str, dict[tuple[str, str], float]]] = {
        measure: {name: {} for name in names} for measure in ("similarity", "centred")
    }
    for done, y in enumerate(spaces):
        progress(done, len(spaces))
        for x in spaces:
            for name in names:
                rows = _translator(name, drawn[x], drawn[y])(study.evaluation_set.rows[x])
                true, mean = study.evaluation_set.rows[y], drawn[y].frame.mean
                cells["similarity"][name][x, y] = cosines(rows, true)
                cells["centred"][name][x, y] = cosines(rows, true, mean)
    progress(len(spaces), len(spaces))
    agreements = {(x, y): agreement(drawn[x].frame, drawn[y].frame) for x in spaces for y in spaces}
    return {
        "k": k,
        "spaces": spaces,
        **{
            measure: {name: _matrix(values, spaces) for name, values in by_method.items()}
            for measure, by_method in cells.items()
        },
        "agreement": _matrix(agreements, spaces),
    }


def _translator(name: str, x: DrawnSpace, y: DrawnSpace) -> RowTranslator:
    if name != UNPRUNED_IRP:
        return method_translator(name, x, y)
    return irp_translator(x, y, y.irp_inverses([UNPRUNED])[UNPRUNED].write)


def _matrix(cells: dict[tuple[str, str], float], spaces: list[str]) -> list[list[float]]:
    return [[round(cells[x, y], 6) for y in spaces] for x in spaces]
