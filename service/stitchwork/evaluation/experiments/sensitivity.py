"""What δ and ω do to `irp`: anchors kept, condition number, similarity, accuracy."""

from typing import Final

from stitchwork.evaluation.experiments.methods import written
from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly
from stitchwork.geometry.frame import relative_representation

MOST: Final = 1000


def sensitivity(study: Study, *, progress: Told = quietly) -> Record:
    """`irp` at every δ and ω, on one draw of anchors.

    Args:
        study: The data set; without labels no accuracy is measured.
        progress: Told of each target.

    Returns:
        `records`, one for each setting and ordered pair, with the number of anchors kept and the
        condition number of the target's kept anchors, means over its subspaces.
    """
    k = min(MOST, max(study.sizes))
    fitted = study.anchors(k, 0)
    records: list[Record] = []
    cosines_of = {
        x: relative_representation(study.bench.rows[x], own.seen) for x, own in fitted.items()
    }
    for done, (y, target) in enumerate(fitted.items()):
        progress(done, len(fitted))
        swept = target.pruner.sweep(study.settings.deltas, study.settings.omegas, conditions=True)
        for setting, pruned in swept.items():
            for x in fitted:
                if x == y:
                    continue
                found = written(cosines_of[x], target, pruned)
                measured = study.bench.measured(y, target, found)
                about = {"kept": round(pruned.kept, 2), "condition": pruned.condition}
                of = {"source": x, "target": y, **setting._asdict()}
                records.append({**of, **about, **measured})
    progress(len(fitted), len(fitted))
    return {"k": k, "records": records}
