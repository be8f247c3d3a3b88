"""Models of every supported kind through HTTP: equal to what their own libraries compute."""

import numpy as np
import pytest

from tests.integration.parity import (
    sentence_transformers_cases,
    timm_cases,
    transformers_cases,
)
from tests.integration.parity.cases import Case
from tests.integration.parity.conftest import ParityService

pytestmark = pytest.mark.models

CASES = (*sentence_transformers_cases.CASES, *transformers_cases.CASES, *timm_cases.CASES)
CLASSIFIERS = (*transformers_cases.CLASSIFIERS, *timm_cases.CLASSIFIERS)
MIN_COSINE = 0.9999
MAX_DIFFERENCE = 1e-3
"""Of a row, relative to its norm."""
MAX_PROBABILITY_DIFFERENCE = 1e-4


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_rows_over_http_equal_those_of_the_library(case: Case, parity: ParityService) -> None:
    reference = parity.reference(case)
    expected = reference.rows
    differences = np.linalg.norm(expected[:1] - expected[1:], axis=1)
    assert differences.min() > 10 * MAX_DIFFERENCE * np.linalg.norm(expected[0])
    record = parity.record(case)
    in_force = {name: record["encoder"][name] for name in reference.record}
    assert in_force == reference.record
    rows = parity.embed(case)
    assert rows.shape == expected.shape
    assert record["dim"] == expected.shape[1]
    norms = np.linalg.norm(expected, axis=1)
    cosines = (rows * expected).sum(axis=1) / (np.linalg.norm(rows, axis=1) * norms)
    assert cosines.min() >= MIN_COSINE
    assert (np.linalg.norm(rows - expected, axis=1) / norms).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("case", CLASSIFIERS, ids=[case.id for case in CLASSIFIERS])
def test_predictions_over_http_equal_those_of_the_library(
    case: Case, parity: ParityService
) -> None:
    parity.record(case)
    head = parity.reference(case).head
    assert head is not None
    assert len({tuple(row) for row in head.probabilities.round(3)}) == len(head.probabilities)
    assert parity.head(case, head.body)["labels"] == head.classes
    predictions = parity.predictions(case, len(head.classes))
    assert [prediction["label"] for prediction in predictions] == head.labels
    scores = [{entry["label"]: entry["score"] for entry in p["top"]} for p in predictions]
    rows = np.array([[score[label] for label in head.classes] for score in scores])
    np.testing.assert_allclose(rows, head.probabilities, rtol=0, atol=MAX_PROBABILITY_DIFFERENCE)
