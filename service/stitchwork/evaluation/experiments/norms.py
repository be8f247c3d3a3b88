"""Norms of the rows of a space, and whether they are normally distributed."""

from typing import Final

import numpy as np

from stitchwork.evaluation.experiments.study import (
    ProgressCallback,
    Record,
    Study,
    ignore_progress,
)

BINS: Final = 40
CONSTANT_SPREAD: Final = 1e-4
"""A standard deviation below this, relative to the mean, is rounding error: rows are unit."""


def norms(study: Study, *, progress: ProgressCallback = ignore_progress) -> Record:
    """Norms of the training rows about the origin, by space.

    Args:
        study: The data set.
        progress: Called for each space.

    Returns:
        By space: mean, std, their ratio `cv`, skewness and excess kurtosis, the p of D'Agostino
        and Pearson's test of normality, and a histogram; without the last five where norms are
        constant.

    Source:
        D'Agostino and Pearson, Tests for Departure from Normality, 1973, as in scipy.
    """
    from scipy.stats import kurtosis, normaltest, skew

    spaces: Record = {}
    for done, space in enumerate(study.spaces):
        progress(done, len(study.spaces))
        rows = study.embedded.rows[space][study.embedded.train]
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        mean, std = float(np.mean(lengths)), float(np.std(lengths))
        statistics: Record = {"rows": len(rows), "mean": mean, "std": std, "cv": std / mean}
        if std > CONSTANT_SPREAD * mean:
            counts, edges = np.histogram(lengths / mean, bins=BINS)
            test = normaltest(lengths)
            statistics |= {
                "skewness": float(skew(lengths)),
                "kurtosis": float(kurtosis(lengths)),
                "statistic": float(test.statistic),
                "p": float(test.pvalue),
                "counts": counts.tolist(),
                "edges": edges.tolist(),
            }
        spaces[space] = statistics
    progress(len(study.spaces), len(study.spaces))
    return {"spaces": spaces}
