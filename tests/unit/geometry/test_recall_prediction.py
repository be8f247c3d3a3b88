"""Predicted recall against recall that is measured among all rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.diagnostics.recall_prediction import predict_recall

Floats = NDArray[np.float64]


def _clustered(rows: int, seed: int, noise: float) -> tuple[Floats, Floats]:
    """Unit rows around centres of several scales, and the same with noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 24))
    exact = centres[rng.integers(40, size=rows)] + 0.4 * rng.normal(size=(rows, 24))
    noisy = exact + noise * rng.normal(size=exact.shape)
    return _unit(exact), _unit(noisy)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _recall(expected: Floats, actual: Floats, own: NDArray[np.int64]) -> float:
    """Recall@10 by its definition."""
    shares = []
    for row, other, index in zip(expected, actual, own, strict=True):
        tops = [np.argsort(-np.delete(scores, index))[:10] for scores in (row, other)]
        shares.append(len(set(tops[0].tolist()) & set(tops[1].tolist())) / 10)
    return float(np.mean(shares))


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.4])
def test_prediction_from_a_sample_is_near_the_recall_among_all_rows(noise: float) -> None:
    exact, noisy = _clustered(6000, 3, noise)
    queries = np.arange(300)
    measured = _recall(exact[queries] @ exact.T, exact[queries] @ noisy.T, queries)
    sample = np.arange(1000, 2000)
    own = np.arange(1000)
    prediction = predict_recall(
        exact[sample] @ exact[sample].T, exact[sample] @ noisy[sample].T, 6000, own
    )
    assert prediction.recall == pytest.approx(measured, abs=0.03)
    assert prediction.low <= measured <= prediction.high
    # The recall in the sample itself is no prediction.
    assert noise == 0.05 or prediction.sample_recall > measured + 0.04


def test_prediction_at_the_size_of_the_sample_is_its_recall() -> None:
    exact, noisy = _clustered(300, 0, 0.3)
    own = np.arange(300)
    expected, actual = exact @ exact.T, exact @ noisy.T
    prediction = predict_recall(expected, actual, 300, own)
    assert prediction.recall == pytest.approx(_recall(expected, actual, own))
    assert prediction.recall == prediction.sample_recall
    assert predict_recall(expected, actual, 10, own) == prediction


def test_equal_scores_predict_a_recall_of_one() -> None:
    exact, _ = _clustered(400, 1, 0.0)
    scores = exact @ exact.T
    prediction = predict_recall(scores, scores, 10_000_000, np.arange(400))
    assert prediction.recall > 0.995
    assert prediction.sample_recall == 1


def test_unrelated_scores_predict_a_recall_near_chance() -> None:
    rng = np.random.default_rng(0)
    expected, actual = rng.normal(size=(200, 500)), rng.normal(size=(200, 500))
    assert predict_recall(expected, actual, 5000).recall < 0.02


def test_own_row_of_a_query_is_no_result_of_it() -> None:
    exact, noisy = _clustered(200, 2, 0.3)
    expected, actual = exact @ exact.T, exact @ noisy.T
    own = np.arange(200)
    with_own = predict_recall(expected, actual, 200).recall
    assert predict_recall(expected, actual, 200, own).recall < with_own
    # A query that is not in the sample has all of its rows.
    assert predict_recall(expected, actual, 200, np.full(200, -1)).recall == with_own


def test_queries_apart_from_the_rows_have_an_interval_around_the_prediction() -> None:
    exact, noisy = _clustered(600, 4, 0.3)
    prediction = predict_recall(exact[:100] @ exact[100:].T, exact[:100] @ noisy[100:].T, 5000)
    assert prediction.low < prediction.recall < prediction.high
    assert prediction.high - prediction.low < 0.3
    assert (prediction.rows, prediction.size) == (500, 5000)
    # What is far from the sample is less certain.
    far = predict_recall(exact[:100] @ exact[100:].T, exact[:100] @ noisy[100:].T, 50_000)
    assert far.high - far.low > prediction.high - prediction.low


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [
        ((50, 200), (50, 201), "scores of one shape"),
        ((50, 99), (50, 99), "at least 100 rows"),
        ((19, 200), (19, 200), "20 queries"),
    ],
)
def test_too_few_or_unequal_scores_are_refused(
    expected: tuple[int, int], actual: tuple[int, int], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        predict_recall(np.zeros(expected), np.zeros(actual), 1000)
