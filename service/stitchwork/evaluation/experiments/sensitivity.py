"""Sensitivity of `irp` to δ and ω: number of anchors, condition number, similarity, accuracy."""

from typing import Final

from stitchwork.evaluation.experiments.methods import irp_rows
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.geometry.frame import relative_representation

MAX_ANCHORS: Final = 1000


def sensitivity(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """`irp` at every δ and ω, on one draw of anchors.

    Args:
        study: The data set; without labels no accuracy is measured.
        progress: Called for each target.

    Returns:
        `records`, one for each setting and ordered pair, with the number of `anchors` in the
        target's subspaces and their `condition` number, means over the subspaces.
    """
    k = min(MAX_ANCHORS, max(study.sizes))
    drawn = study.draw(k, 0)
    test_set = study.evaluation_set
    records: list[Record] = []
    cosines_of = {
        x: relative_representation(test_set.rows[x], space.frame) for x, space in drawn.items()
    }
    for done, (y, target) in enumerate(drawn.items()):
        progress(done, len(drawn))
        sweep = target.pruner.sweep(study.settings.deltas, study.settings.omegas, conditions=True)
        for setting, inverse in sweep.items():
            for x in drawn:
                if x == y:
                    continue
                rows = irp_rows(cosines_of[x], target, inverse)
                records.append(
                    {
                        "source": x,
                        "target": y,
                        **setting._asdict(),
                        "anchors": round(inverse.anchors, 2),
                        "condition": inverse.condition,
                        **test_set.measure_rows(y, target, rows),
                    }
                )
    progress(len(drawn), len(drawn))
    return {"k": k, "records": records}
