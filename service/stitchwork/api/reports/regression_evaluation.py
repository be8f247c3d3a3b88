"""Evaluation of a regression on a labelled sample: explained variance, and a verdict."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stitchwork.api.reports.verdicts import VarianceExplained
from stitchwork.api.schemas.report_responses import RegressionQuality
from stitchwork.errors import InvalidInputError
from stitchwork.resources import Floats

RESAMPLES: Final = 1000
MAX_RESAMPLED: Final = 2000
"""Rows of which intervals are computed; with more, sums of consecutive rows take their place."""
SEED: Final = 0
PERCENTILES: Final = (2.5, 97.5)


def variance_explained(values: Floats, targets: NDArray[np.float64]) -> VarianceExplained:
    """The quality of predicted values.

    Args:
        values: (n, c) predicted.
        targets: (n, c) true values, which are not all equal.

    Returns:
        r2 over all values together, so that each counts by its variance, with a bootstrap interval.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, percentile interval.
    """
    differences = np.asarray(values, np.float64) - targets
    errors = (differences**2).sum(axis=1)
    deviations = ((targets - targets.mean(axis=0)) ** 2).sum(axis=1)
    r2 = 1 - errors.sum() / deviations.sum()
    blocks = [
        np.array([part.sum() for part in np.array_split(rows, min(len(rows), MAX_RESAMPLED))])
        for rows in (errors, deviations)
    ]
    count = len(blocks[0])
    rng = np.random.default_rng(SEED)
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    sums = weights @ np.stack(blocks, axis=1)
    resampled = 1 - sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float64).tiny)
    low, high = np.percentile(resampled, PERCENTILES).tolist()
    return VarianceExplained(
        float(r2),
        (min(low, float(r2)), max(high, float(r2))),
        float(np.abs(differences).mean()),
        len(targets),
    )


def check_variance(targets: NDArray[np.float64]) -> None:
    """Check that true values differ.

    Raises:
        InvalidInputError: If they are all equal, so that there is nothing to explain.
    """
    if not (targets != targets[0]).any():
        raise InvalidInputError(
            "expected true values that differ between inputs, got equal ones", pointer="/labels"
        )


def regression_quality(result: VarianceExplained | str) -> RegressionQuality:
    """The quality as the response has it; a text is the reason why it is unknown."""
    fields: dict[str, Any] = {"r2": None, "interval": None, "mae": None, "reason": result}
    if not isinstance(result, str):
        fields = {"r2": result.r2, "interval": result.interval, "mae": result.mae}
    return RegressionQuality(**fields)
