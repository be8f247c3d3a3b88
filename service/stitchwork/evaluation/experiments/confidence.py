"""Whether confidence tells right predictions from wrong ones, and can be read as a probability."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.client import Floats
from stitchwork.evaluation.experiments.methods import SERVED, Fitted, method, pairs
from stitchwork.evaluation.experiments.probes import Head
from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.geometry.calibration import (
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_odds,
    reliability_bins,
)
from stitchwork.geometry.diagnostics.space_metrics import neighbour_confidence

MOST: Final = 1500


def confidence(study: Study, *, progress: Told = quietly) -> Record:
    """Every pair through every bridge of the service, linear heads, one draw of anchors.

    Calibration is fitted on one half of the held-out rows and told of the other, and the other
    way round, so that every calibrated confidence is of a row that its fit did not see.

    Args:
        study: A data set with labels.
        progress: Told of each pair.

    Returns:
        `native`: by space, AUROC of the head's largest softmax and its calibration error;
        `records`: the same of every pair and bridge, with the AUROC of the target's and the
        source's neighbours; `reliability`: bins over all pairs of the default bridge.
    """
    k = min(MOST, max(study.sizes))
    fitted, bench = study.anchors(k, 0), study.bench
    native = {}
    told, right = _Pool(), np.zeros(0, np.bool_)
    for space in study.spaces:
        native[space] = _head(study, bench.heads[space]["linear"], bench.rows[space])[0]
    records: list[Record] = []
    ordered = pairs(study.spaces)
    for done, (x, y) in enumerate(ordered):
        progress(done, len(ordered))
        head = bench.heads[y]["linear"]
        near_source = _near(bench.rows[x], fitted[x])
        for name in SERVED:
            rows = method(name, fitted[x], fitted[y])(bench.rows[x])
            found, raw, calibrated, right = _head(study, head, rows)
            of = {"source": x, "target": y, "bridge": name}
            neighbours = {
                "target neighbours": auroc(_near(rows, fitted[y]), right),
                "source neighbours": auroc(near_source, right),
            }
            records.append({**of, **found, **neighbours})
            if name == DEFAULT_BRIDGE:
                told.add(raw, calibrated, right)
    progress(len(ordered), len(ordered))
    return {"k": k, "native": native, "records": records, "reliability": told.bins()}


class _Pool:
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
        found: Record = {"rows": len(right)}
        for name, parts in (("raw", self._raw), ("calibrated", self._calibrated)):
            said = np.concatenate(parts)
            found[name] = {
                "error": expected_calibration_error(said, right),
                "bins": [bar._asdict() for bar in reliability_bins(said, right)],
            }
        return found


def _head(
    study: Study, head: Head, rows: Floats
) -> tuple[Record, NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """What the head's largest softmax is worth, raw and calibrated, and what was right."""
    labels = study.bench.labels
    assert labels is not None  # noqa: S101 a head was fitted on labels
    shares = head.probabilities(rows)
    right: NDArray[np.bool_] = head.order[np.argmax(shares, axis=1)] == labels
    odds, raw = log_odds(shares), np.max(shares, axis=1)
    halves = np.random.default_rng(study.settings.seed).permutation(len(right)) % 2 == 0
    calibrated = np.zeros(len(right))
    for half in (halves, ~halves):
        calibrated[~half] = fit_calibration(odds[half], right[half])(odds[~half])
    found = {
        "accuracy": float(np.mean(right)),
        "head": auroc(odds, right),
        "error": expected_calibration_error(raw, right),
        "calibrated error": expected_calibration_error(calibrated, right),
    }
    return found, raw, calibrated, right


def _near(rows: Floats, fitted: Fitted) -> NDArray[Any]:
    return np.asarray(neighbour_confidence(rows, fitted.seen))
