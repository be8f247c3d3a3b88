"""Intra- and inter-space inversion: how much of a space comes back out of the anchors."""

from typing import Final

from stitchwork.evaluation.experiments.measures import cosines
from stitchwork.evaluation.experiments.methods import SERVED, Fitted, Translate, method, through
from stitchwork.evaluation.experiments.pruning import Setting
from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly
from stitchwork.geometry.diagnostics.space_metrics import agreement

PLAIN: Final = "irp, unpruned"
UNPRUNED: Final = Setting(0.0, 1)
MOST: Final = 1500


def inversion(study: Study, *, progress: Told = quietly) -> Record:
    """Reconstruction similarity between all spaces, each with itself among them.

    From a space to itself rows go through the bridge as to any other: out by its own read, and
    back in by its own inverse.

    Args:
        study: The data set.
        progress: Told of each target.

    Returns:
        By method a (source × target) matrix of mean cosine over the held-out rows, about the
        origin (`similarity`) and about the anchors' mean (`centred`); and the `agreement` of the
        anchors' own cosines.
    """
    spaces = study.spaces
    k = min(MOST, max(study.sizes))
    fitted = study.anchors(k, 0)
    names = (PLAIN, *SERVED)
    cells: dict[str, dict[str, dict[tuple[str, str], float]]] = {
        measure: {name: {} for name in names} for measure in ("similarity", "centred")
    }
    for done, y in enumerate(spaces):
        progress(done, len(spaces))
        for x in spaces:
            for name in names:
                found = _way(name, fitted[x], fitted[y])(study.bench.rows[x])
                true, mean = study.bench.rows[y], fitted[y].seen.mean
                cells["similarity"][name][x, y] = cosines(found, true)
                cells["centred"][name][x, y] = cosines(found, true, mean)
    progress(len(spaces), len(spaces))
    alike = {(x, y): agreement(fitted[x].seen, fitted[y].seen) for x in spaces for y in spaces}
    return {
        "k": k,
        "spaces": spaces,
        **{
            measure: {name: _matrix(found, spaces) for name, found in of.items()}
            for measure, of in cells.items()
        },
        "agreement": _matrix(alike, spaces),
    }


def _way(name: str, x: Fitted, y: Fitted) -> Translate:
    if name != PLAIN:
        return method(name, x, y)
    return through(x, y, y.irp([UNPRUNED])[UNPRUNED].write)


def _matrix(cells: dict[tuple[str, str], float], spaces: list[str]) -> list[list[float]]:
    return [[round(cells[x, y], 6) for y in spaces] for x in spaces]
