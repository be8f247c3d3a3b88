"""Confidence: whether it separates right predictions from wrong ones, and is calibrated."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.experiments.methods import (
    TRANSLATING_BRIDGES,
    DrawnSpace,
    method_translator,
    ordered_pairs,
)
from stitchwork.evaluation.experiments.probes import ProbeHead
from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.calibration import (
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_odds,
    reliability_bins,
)
from stitchwork.geometry.diagnostics.space_metrics import neighbour_confidence

MAX_ANCHORS: Final = 1500


def confidence(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """Every pair through every bridge of the service, linear heads, one draw of anchors.

    Calibration is fitted on one half of the test rows and measured on the other, and vice versa,
    so that no calibrated confidence is of a row that it was fitted on.

    Args:
        study: A data set with labels.
        progress: Called for each pair.

    Returns:
        `native`: by space, AUROC of the head's largest softmax and its calibration error;
        `records`: the same of every pair and bridge, with the AUROC of the target's and the
        source's neighbours; `reliability`: bins over all pairs of the default bridge.
    """
    k = min(MAX_ANCHORS, max(study.sizes))
    drawn, test_set = study.draw(k, 0), study.evaluation_set
    native = {}
    pooled, right = _PooledPredictions(), np.zeros(0, np.bool_)
    for space in study.spaces:
        head = test_set.heads[space]["linear"]
        native[space] = _head_confidence(study, head, test_set.rows[space])[0]
    records: list[Record] = []
    pairs = ordered_pairs(study.spaces)
    for done, (x, y) in enumerate(pairs):
        progress(done, len(pairs))
        head = test_set.heads[y]["linear"]
        near_source = _neighbour_confidence(test_set.rows[x], drawn[x])
        for name in TRANSLATING_BRIDGES:
            rows = method_translator(name, drawn[x], drawn[y])(test_set.rows[x])
            measures, raw, calibrated, right = _head_confidence(study, head, rows)
            labels = {"source": x, "target": y, "bridge": name}
            neighbours = {
                "target neighbours": auroc(_neighbour_confidence(rows, drawn[y]), right),
                "source neighbours": auroc(near_source, right),
            }
            records.append({**labels, **measures, **neighbours})
            if name == DEFAULT_BRIDGE:
                pooled.add(raw, calibrated, right)
    progress(len(pairs), len(pairs))
    return {"k": k, "native": native, "records": records, "reliability": pooled.bins()}


class _PooledPredictions:
    """Predictions of all pairs."""

    def __init__(self) -> None:
        self._raw: list[NDArray[Any]] = []
        self._calibrated: list[NDArray[Any]] = []
        self._right: list[NDArray[np.bool_]] = []

    def add(self, raw: NDArray[Any], calibrated: NDArray[Any], right: NDArray[np.bool_]) -> None:
        self._raw.append(raw)
        self._calibrated.append(calibrated)
        self._right.append(right)

    def bins(self) -> Record:
        right = np.concatenate(self._right)
        result: Record = {"rows": len(right)}
        for name, parts in (("raw", self._raw), ("calibrated", self._calibrated)):
            confidences = np.concatenate(parts)
            result[name] = {
                "error": expected_calibration_error(confidences, right),
                "bins": [bar._asdict() for bar in reliability_bins(confidences, right)],
            }
        return result


def _head_confidence(
    study: Study, head: ProbeHead, rows: Floats
) -> tuple[Record, NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Measures of the head's confidence, the confidence raw and calibrated, and what was right."""
    labels = study.evaluation_set.labels
    assert labels is not None  # noqa: S101 heads are fitted on labels
    probabilities = head.probabilities(rows)
    right: NDArray[np.bool_] = head.classes[np.argmax(probabilities, axis=1)] == labels
    odds, raw = log_odds(probabilities), np.max(probabilities, axis=1)
    halves = np.random.default_rng(study.settings.seed).permutation(len(right)) % 2 == 0
    calibrated = np.zeros(len(right))
    for half in (halves, ~halves):
        calibrated[~half] = fit_calibration(odds[half], right[half])(odds[~half])
    measures = {
        "accuracy": float(np.mean(right)),
        "head": auroc(odds, right),
        "error": expected_calibration_error(raw, right),
        "calibrated error": expected_calibration_error(calibrated, right),
    }
    return measures, raw, calibrated, right


def _neighbour_confidence(rows: Floats, space: DrawnSpace) -> NDArray[Any]:
    return np.asarray(neighbour_confidence(rows, space.frame))
