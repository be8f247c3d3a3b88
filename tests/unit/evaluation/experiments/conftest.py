"""Digits as three small spaces: as they are, rotated and scaled, and through a random layer."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.experiments.experiment_settings import ExperimentSettings
from stitchwork.evaluation.experiments.study import Study

TRAIN, TEST = 400, 150
SETTINGS = ExperimentSettings(
    draws=2, counts=(60, 200), small_counts=(30,), deltas=(0.6, 0.8, 0.9), omegas=(1, 8)
)


def digits_embedded() -> EmbeddedCorpus:
    digits = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.data))[: TRAIN + TEST]
    inputs = digits.data[order] / 16
    rotation, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    layer = np.tanh(inputs @ rng.normal(size=(64, 90)) / 4)
    rows = {
        "plain": inputs + 0.01 * rng.normal(size=inputs.shape),
        "turned": 5 * inputs @ rotation + 3,
        "layer": layer,
    }
    labels = digits.target[order].astype(np.int64)
    return EmbeddedCorpus(
        "small",
        {name: of.astype(np.float32) for name, of in rows.items()},
        dict.fromkeys(rows, "vector"),
        labels,
        tuple("0123456789"),
        np.arange(TRAIN + TEST) % 20,
        np.arange(TRAIN),
        np.arange(TRAIN, TRAIN + TEST),
        dict.fromkeys(rows, "test data"),
    )


@pytest.fixture(scope="session")
def study() -> Study:
    return Study(digits_embedded(), SETTINGS)


@pytest.fixture(scope="session")
def cross_modal_study(study: Study) -> Study:
    """The same, with one of its spaces declared as text."""
    modality = {**study.embedded.modality, "layer": "text"}
    return Study(replace(study.embedded, modality=modality), SETTINGS)
