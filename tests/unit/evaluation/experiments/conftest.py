"""Digits as three small spaces: turned, moved and scaled, seen through a random layer, and both."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.experiments.experiment_settings import Settings
from stitchwork.evaluation.experiments.study import Study

TRAIN, TEST = 400, 150
SETTINGS = Settings(draws=2, counts=(60, 200), few=(30,), deltas=(0.6, 0.8, 0.9), omegas=(1, 8))


def digits_embedded() -> Embedded:
    found = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(found.data))[: TRAIN + TEST]
    inputs = found.data[order] / 16
    turn, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    seen = np.tanh(inputs @ rng.normal(size=(64, 90)) / 4)
    rows = {
        "plain": inputs + 0.01 * rng.normal(size=inputs.shape),
        "turned": 5 * inputs @ turn + 3,
        "layer": seen,
    }
    labels = found.target[order].astype(np.int64)
    return Embedded(
        "small",
        {name: of.astype(np.float32) for name, of in rows.items()},
        dict.fromkeys(rows, "vector"),
        labels,
        tuple("0123456789"),
        np.arange(TRAIN + TEST) % 20,
        np.arange(TRAIN),
        np.arange(TRAIN, TRAIN + TEST),
        dict.fromkeys(rows, "made for a test"),
    )


@pytest.fixture(scope="session")
def study() -> Study:
    return Study(digits_embedded(), SETTINGS)


@pytest.fixture(scope="session")
def across(study: Study) -> Study:
    """The same, one of its spaces declared to be of texts."""
    modality = {**study.embedded.modality, "layer": "text"}
    return Study(replace(study.embedded, modality=modality), SETTINGS)
