"""Effect of the power b of the whitened write; its default was chosen with this on other data."""

from dataclasses import replace
from typing import Final

from stitchwork.evaluation.experiments.methods import DrawnSpace, map_translator, ordered_pairs
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.geometry.bridges import BridgeName, FactorParameters, compose, required_inverses

POWERS: Final = (0.0, 0.1, 0.15, 0.2, 0.25, 0.5)
BRIDGES: Final[tuple[BridgeName, ...]] = ("exp", "ridge-whitened")


def whitening(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """Every power, on one draw of each number of anchors.

    Args:
        study: The data set; without labels no accuracy is measured.
        progress: Called for each target at each number of anchors.

    Returns:
        `native` accuracies, and `records`, one for each power, bridge, number of anchors and
        ordered pair.
    """
    records: list[Record] = []
    total, done = len(study.sizes) * len(study.spaces), 0
    for k in study.sizes:
        drawn = study.draw(k, 0)
        for y, target in drawn.items():
            progress(done, total)
            for power in POWERS:
                parameters = replace(target.parameters, whitening=power)
                records += _measure_target(study, y, drawn, parameters, k)
            done += 1
    progress(total, total)
    return {"native": study.evaluation_set.native_accuracies(), "records": records}


def _measure_target(
    study: Study, y: str, drawn: dict[str, DrawnSpace], parameters: FactorParameters, k: int
) -> list[Record]:
    """Records of all sources translated to one target with these parameters."""
    target = DrawnSpace(drawn[y].anchors, parameters)
    records = []
    for x, other in ordered_pairs(list(drawn)):
        if other != y:
            continue
        for bridge in BRIDGES:
            of_source, of_target = required_inverses(bridge)
            pair_map = compose(bridge, drawn[x].fitted(of_source), target.fitted(of_target))
            records.append(
                {
                    "k": k,
                    "source": x,
                    "target": y,
                    "method": bridge,
                    "power": parameters.whitening,
                    **study.evaluation_set.measure(x, y, target, map_translator(pair_map)),
                }
            )
    return records
