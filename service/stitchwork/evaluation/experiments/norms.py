"""How long the rows of a space are, and whether their lengths are normally distributed."""

from typing import Final

import numpy as np

from stitchwork.evaluation.experiments.study import Record, Study, Told, quietly

BINS: Final = 40
CONSTANT: Final = 1e-4
"""A spread, relative to the mean, that is rounding: the encoder gives unit rows."""


def norms(study: Study, *, progress: Told = quietly) -> Record:
    """Lengths of the training rows about the origin, by space.

    Args:
        study: The data set.
        progress: Told of each space.

    Returns:
        By space: mean, std, their ratio `cv`, skewness and excess kurtosis, the p of D'Agostino
        and Pearson's test of normality, and a histogram; of constant lengths only mean and cv.

    Source:
        D'Agostino and Pearson, Tests for Departure from Normality, 1973, as scipy has it.
    """
    from scipy.stats import kurtosis, normaltest, skew

    found: Record = {}
    for done, space in enumerate(study.spaces):
        progress(done, len(study.spaces))
        rows = study.embedded.rows[space][study.embedded.train]
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        mean, std = float(np.mean(lengths)), float(np.std(lengths))
        told: Record = {"rows": len(rows), "mean": mean, "std": std, "cv": std / mean}
        if std > CONSTANT * mean:
            counts, edges = np.histogram(lengths / mean, bins=BINS)
            test = normaltest(lengths)
            told |= {
                "skewness": float(skew(lengths)),
                "kurtosis": float(kurtosis(lengths)),
                "statistic": float(test.statistic),
                "p": float(test.pvalue),
                "counts": counts.tolist(),
                "edges": edges.tolist(),
            }
        found[space] = told
    progress(len(study.spaces), len(study.spaces))
    return {"spaces": found}
