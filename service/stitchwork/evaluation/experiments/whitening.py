"""What the power b of a whitened write does: how its default was chosen, on data of its own."""

from dataclasses import replace
from typing import Final

from stitchwork.evaluation.experiments.methods import Fitted, applied, pairs
from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly
from stitchwork.geometry.bridges import BridgeName, FactorParameters, compose, required_inverses

POWERS: Final = (0.0, 0.1, 0.15, 0.2, 0.25, 0.5)
BRIDGES: Final[tuple[BridgeName, ...]] = ("exp", "ridge-whitened")


def whitening(study: Study, *, progress: Told = quietly) -> Record:
    """Every power, on one draw of each number of anchors.

    Args:
        study: The data set; without labels no accuracy is measured.
        progress: Told of each target at each number of anchors.

    Returns:
        `native` accuracies, and `records`, one for each power, bridge, number of anchors and
        ordered pair.
    """
    records: list[Record] = []
    total, done = len(study.sizes) * len(study.spaces), 0
    for k in study.sizes:
        fitted = study.anchors(k, 0)
        for y, target in fitted.items():
            progress(done, total)
            for power in POWERS:
                parameters = replace(target.parameters, whitening=power)
                records += _into(study, y, fitted, parameters, k)
            done += 1
    progress(total, total)
    return {"native": study.bench.native(), "records": records}


def _into(
    study: Study, y: str, fitted: dict[str, Fitted], parameters: FactorParameters, k: int
) -> list[Record]:
    """All sources into one target that is written with other parameters than its own."""
    target = Fitted(fitted[y].anchors, parameters)
    found = []
    for x, own in pairs(list(fitted)):
        if own != y:
            continue
        for bridge in BRIDGES:
            of_source, of_target = required_inverses(bridge)
            way = applied(compose(bridge, fitted[x].side(of_source), target.side(of_target)))
            about = {"k": k, "source": x, "target": y, "method": bridge}
            measured = study.bench.measure(x, y, target, way)
            found.append({**about, "power": parameters.whitening, **measured})
    return found
