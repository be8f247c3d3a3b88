"""A labelled sample → accuracies with intervals, a verdict, and how honest confidence is."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.reports import verdicts
from stitchwork.api.reports.verdicts import Share
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.calibration import (
    Calibration,
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_odds,
    reliability_bins,
)
from stitchwork.inference.predictions import confidence
from stitchwork.resources import Floats, Head

FOLDS: Final = 5
FEWEST: Final = 20
"""Labelled inputs that a calibration takes at least."""
SHOWN: Final = 10


class Scored(NamedTuple):
    """What a head made of a sample.

    Attributes:
        probabilities: (n, c).
        defined: (n,) bool.
        covered: (n,) bool.
    """

    probabilities: Floats
    defined: NDArray[np.bool_]
    covered: NDArray[np.bool_]


def classes(labels: Sequence[str], head: Head) -> NDArray[np.int64]:
    """Labels as the head's classes.

    Raises:
        InvalidInputError: If some are not among them; the message names them.
    """
    place = {label: i for i, label in enumerate(head.labels)}
    unknown = [label for label in dict.fromkeys(labels) if label not in place]
    if unknown:
        names = ", ".join(repr(label[:80]) for label in unknown[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise InvalidInputError(
            f"head {head.id} has no class {names}{more}",
            pointer=f"/labels/{list(labels).index(unknown[0])}",
            code=ErrorCode.UNKNOWN_LABEL,
        )
    return np.array([place[label] for label in labels], np.int64)


def correct(scored: Scored, truth: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which predictions are right; of equal scores the first class counts, as it is shown."""
    return np.asarray(scored.probabilities.argmax(axis=1) == truth)


def judge(
    truth: NDArray[np.int64],
    translated: Scored,
    absolute: Scored | str,
    native: Scored | str,
    head: Head,
    bridge: BridgeName,
) -> dict[str, Any]:
    """Accuracies and the verdict.

    Args:
        truth: (n,) classes.
        translated: The sample through the bridge.
        absolute: Without a bridge, or why there is none.
        native: The same inputs embedded in the head's own space, or why there are none.
        head: The head.
        bridge: The bridge.
    """
    most = Counter(truth.tolist()).most_common(1)[0][1]
    chance = max(most / len(truth), 1 / len(head.labels))
    through = Share(int(correct(translated, truth).sum()), len(truth))
    own = None if isinstance(native, str) else Share(int(correct(native, truth).sum()), len(truth))
    told = verdicts.of_sample(through, own, chance, bridge)
    return {
        "samples": len(truth),
        "chance": chance,
        "absolute": _accuracy(absolute, truth),
        "translated": _accuracy(translated, truth),
        "native": _accuracy(native, truth),
        "verdict": told.verdict,
        "reason": told.reason,
    }


def learn(scored: Scored, truth: NDArray[np.int64]) -> tuple[Calibration, dict[str, Any]]:
    """A calibration, and how good calibrations are on samples that they have not seen.

    Returns:
        The calibration of the whole sample, and what `trust` says of confidences each of which
        was calibrated on the other four fifths.

    Raises:
        InvalidInputError: If there are fewer than 20 labels.
    """
    if len(truth) < FEWEST:
        raise InvalidInputError(
            f"expected at least {FEWEST} labelled inputs to calibrate on, got {len(truth)}",
            pointer="/labels",
            code=ErrorCode.TOO_FEW_LABELS,
        )
    odds, right = log_odds(scored.probabilities), correct(scored, truth)
    # In the order of their scores every fifth one is left out: each fifth is like the whole.
    fold = np.empty(len(odds), np.int64)
    fold[np.argsort(odds, kind="stable")] = np.arange(len(odds)) % FOLDS
    unseen = np.empty(len(odds))
    for part in range(FOLDS):
        fitted = fit_calibration(odds[fold != part], right[fold != part])
        unseen[fold == part] = fitted(odds[fold == part])
    held_out = np.where(scored.defined, unseen, 0.0)
    return fit_calibration(odds, right), {"calibrated": True, **_measures(held_out, right)}


def trust(
    scored: Scored, truth: NDArray[np.int64], calibration: Calibration | None
) -> dict[str, Any]:
    """How well confidence tells right from wrong (AUROC), and how honest it is (ECE)."""
    found = confidence(scored.probabilities, scored.defined, calibration)
    right = correct(scored, truth)
    return {"calibrated": calibration is not None, **_measures(found, right)}


def _measures(found: NDArray[Any], right: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "auroc": auroc(found, right),
        "ece": expected_calibration_error(found, right),
        "reliability": [held._asdict() for held in reliability_bins(found, right)],
    }


def _accuracy(scored: Scored | str, truth: NDArray[np.int64]) -> dict[str, Any]:
    if isinstance(scored, str):
        return {"accuracy": None, "interval": None, "reason": scored}
    share = Share(int(correct(scored, truth).sum()), len(truth))
    return {"accuracy": share.accuracy, "interval": share.interval}
