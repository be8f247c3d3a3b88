"""Embeddings whose lengths do not fit the anchors of their space."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stitchwork.inference.length_report import LengthReport, row_lengths
from tests.unit.inference.test_predictions import SPACE


def rows_of(lengths: NDArray[np.float64] | list[float]) -> NDArray[np.float32]:
    """Rows of these lengths, in random directions."""
    rows = np.random.default_rng(0).normal(size=(len(lengths), 16))
    rows *= (np.asarray(lengths) / np.linalg.norm(rows, axis=1))[:, None]
    return rows.astype(np.float32)


def report(lengths: NDArray[np.float64] | list[float], mean: float, std: float) -> LengthReport:
    space = SPACE.model_copy(update={"norm_mean": mean, "norm_std": std})
    return LengthReport.of(row_lengths(rows_of(lengths)), space)


@pytest.mark.parametrize(
    ("lengths", "mean", "std", "mismatched", "cause"),
    [
        ([1.0] * 5, 9.8, 0.4, 5, "were they normalised, such as by a vector store?"),
        ([1.0], 9.8, 0.4, 1, "1 of 1 embeddings have length 1, the anchors of space x 9.8 ± 0.4:"),
        ([1.0] * 3, 1.4, 0.3, 3, "were they normalised, such as by a vector store?"),
        ([1.0] * 3, 10.0, 5.0, 3, "were they normalised, such as by a vector store?"),
        (
            [9.4, 9.8, 10.2],
            1.0,
            0.0,
            3,
            "length 9.8 ± 0.33, the anchors of space x 1: the anchors ",
        ),
        ([1.0, 9.8, 1.0], 1.0, 0.0, 1, "1 of 3 embeddings have length 9.8, the anchors of space x"),
        ([2550.0] * 2, 10.0, 2.0, 2, "do they come from the encoder of this space, scaled alike?"),
        ([0.0, 1.0], 1.0, 0.0, 1, "1 of 2 embeddings have length 0, the anchors"),
    ],
)
def test_lengths_that_do_not_fit_are_warned_of_with_the_cause(
    lengths: list[float], mean: float, std: float, mismatched: int, cause: str
) -> None:
    result = report(lengths, mean, std)
    assert result.mismatched == mismatched
    (warning,) = result.warnings
    assert cause in warning


@pytest.mark.parametrize(
    ("lengths", "mean", "std"),
    [
        ([1.0, 0.9995, 1.0004], 1.0, 0.0),
        ([1.0, 1.0], 1.0005, 0.0004),
        ([1.0], 1.2, 0.1),
        ([8.0, 13.0, 5.5], 9.8, 0.5),
        # Rounded to int8 by a vector store.
        ([0.93, 1.06], 1.0, 0.0),
    ],
)
def test_lengths_that_fit_are_not_warned_of(lengths: list[float], mean: float, std: float) -> None:
    assert report(lengths, mean, std) == LengthReport()


def test_lengths_that_overflow_are_warned_of_without_a_numpy_warning() -> None:
    rows = np.full((2, 4), 3e38, np.float32)
    (warning,) = LengthReport.of(row_lengths(rows), SPACE).warnings
    assert warning.startswith("2 of 2 embeddings have length 6e+38, the anchors of space x 1:")


@pytest.mark.parametrize(
    ("lengths", "mean", "std", "cause"),
    [
        ([1.0] * 5, 9.8, 0.4, "the encoder normalises, the anchors were registered otherwise"),
        ([9.4, 9.8], 1.0, 0.0, "the anchors were normalised, the encoder does not normalise"),
        ([255.0], 10.0, 2.0, "the anchors were not computed by this encoder, or were scaled"),
    ],
)
def test_lengths_that_an_encoder_gives_are_warned_of_with_their_own_cause(
    lengths: list[float], mean: float, std: float, cause: str
) -> None:
    space = SPACE.model_copy(update={"norm_mean": mean, "norm_std": std})
    result = LengthReport.of(np.array(lengths), space, by_encoder=True)
    assert result.mismatched == len(lengths)
    (warning,) = result.warnings
    assert warning.startswith(f"{len(lengths)} of {len(lengths)} embeddings of its encoder have")
    assert cause in warning
