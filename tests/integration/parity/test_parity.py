"""Models of every supported kind through HTTP: equal to what their own libraries compute."""

import numpy as np
import pytest

from tests.integration.parity import (
    sentence_transformers_cases,
    timm_cases,
    tower_cases,
    transformers_cases,
)
from tests.integration.parity.cases import Case
from tests.integration.parity.conftest import Outcome

pytestmark = pytest.mark.models

CASES = (
    *sentence_transformers_cases.CASES,
    *transformers_cases.CASES,
    *timm_cases.CASES,
    *tower_cases.CASES,
)
CLASSIFIERS = (
    *sentence_transformers_cases.CASES,
    *transformers_cases.CLASSIFIERS,
    *timm_cases.CLASSIFIERS,
    *tower_cases.CLASSIFIERS,
)
ALL = tuple({case.id: case for case in (*CASES, *CLASSIFIERS)}.values())
MIN_COSINE = 0.9999
MAX_DIFFERENCE = 1e-3
"""Of a row, relative to its norm."""
MAX_PROBABILITY_DIFFERENCE = 1e-4


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_rows_over_http_equal_those_of_the_library(case: Case, outcome: Outcome) -> None:
    rows, expected = outcome.rows, outcome.reference.rows
    norms = np.linalg.norm(expected, axis=1)
    spread = np.linalg.norm(expected[:1] - expected[1:], axis=1)
    assert spread.min() > 10 * MAX_DIFFERENCE * norms[0], "rows that are all alike show nothing"
    assert rows.shape == expected.shape
    cosines = (rows * expected).sum(axis=1) / (np.linalg.norm(rows, axis=1) * norms)
    assert cosines.min() >= MIN_COSINE
    assert (np.linalg.norm(rows - expected, axis=1) / norms).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("case", ALL, ids=[case.id for case in ALL])
def test_the_record_shows_what_is_in_force(case: Case, outcome: Outcome) -> None:
    encoder, expected = outcome.record["encoder"], outcome.reference.record
    assert {name: encoder[name] for name in expected} == expected
    assert outcome.record["dim"] == outcome.reference.rows.shape[1]
    assert outcome.record["dtype"] == "float32"
    assert outcome.record["label_names"] == list(outcome.reference.label_names)


@pytest.mark.parametrize("case", CLASSIFIERS, ids=[case.id for case in CLASSIFIERS])
def test_predictions_over_http_equal_those_of_the_library(case: Case, outcome: Outcome) -> None:
    expected = outcome.reference.head
    assert expected is not None
    differing = {tuple(row) for row in expected.probabilities.round(3)}
    assert len(differing) == len(expected.probabilities), "scores that are all alike show nothing"
    assert outcome.head["labels"] == expected.classes
    assert [prediction["label"] for prediction in outcome.predictions] == expected.labels
    scores = [{top["label"]: top["score"] for top in p["top"]} for p in outcome.predictions]
    rows = np.array([[score[label] for label in expected.classes] for score in scores])
    np.testing.assert_allclose(
        rows, expected.probabilities, rtol=0, atol=MAX_PROBABILITY_DIFFERENCE
    )


PROBLEMS = transformers_cases.OTHER_PROBLEMS


@pytest.mark.parametrize("case", [PROBLEMS["multi_label_classification"]])
def test_labels_over_http_are_those_of_the_librarys_sigmoids(case: Case, outcome: Outcome) -> None:
    expected = outcome.reference.head
    assert expected is not None
    assert outcome.head["problem_type"] == "multi_label_classification"
    names, counts = expected.classes, set()
    for prediction, row in zip(outcome.predictions, expected.probabilities, strict=True):
        scores = {entry["label"]: entry["score"] for entry in prediction["top"]}
        actual = [scores[name] for name in names]
        np.testing.assert_allclose(actual, row, rtol=0, atol=MAX_PROBABILITY_DIFFERENCE)
        chosen = {name for name, score in zip(names, row, strict=True) if score >= 0.5}
        assert {entry["label"] for entry in prediction["labels"]} == chosen
        counts.add(len(chosen))
    assert len(counts) > 1, "labels that are all alike show nothing"


@pytest.mark.parametrize("case", [PROBLEMS["regression"]])
def test_values_over_http_are_those_of_the_librarys_regression(
    case: Case, outcome: Outcome
) -> None:
    expected = outcome.reference.head
    assert expected is not None
    assert outcome.head["problem_type"] == "regression"
    values = [[one["value"] for one in p["values"]] for p in outcome.predictions]
    np.testing.assert_allclose(
        values, expected.probabilities, rtol=0, atol=MAX_PROBABILITY_DIFFERENCE
    )
