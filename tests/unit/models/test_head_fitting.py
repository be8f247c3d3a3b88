"""Linear heads fitted on embeddings."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import probabilities
from stitchwork.models.head_fitting import fit_linear


@pytest.mark.parametrize("classes", [2, 5])
def test_a_fitted_head_scores_unscaled_embeddings(classes: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 16)) * 5
    which = rng.integers(classes, size=300)
    # Columns of very different scale and offset: the standardisation must be folded in.
    rows = (centres[which] + rng.normal(size=(300, 16))) * np.logspace(-3, 3, 16) + 100
    labels = [f"c{i}" for i in which]
    fit = fit_linear(rows.astype(np.float32), labels)
    scores = fit.classifier.logits(rows.astype(np.float32))
    predicted = [fit.labels[i] for i in np.asarray(scores).argmax(1)]
    assert np.mean([a == b for a, b in zip(predicted, labels, strict=True)]) > 0.97
    assert fit.train_accuracy > 0.97
    assert fit.classifier.n_outputs == classes


def test_labels_keep_trailing_nuls_and_spaces() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert fit_linear(rows, ["a\0", "a", "b ", "b"]).labels == ["a", "a\0", "b", "b "]


@pytest.mark.parametrize("labels", [["a", "a"], ["a"]])
def test_too_few_classes_or_labels_are_refused(labels: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        fit_linear(np.eye(2, dtype=np.float32), labels)


def test_a_fitted_head_is_regularised() -> None:
    rng = np.random.default_rng(0)
    # Half as many dimensions as rows: without regularisation every row can be fitted.
    which = rng.integers(4, size=1200)
    rows = rng.normal(size=(1200, 200)).astype(np.float32)
    rows[:, :4] += 2 * np.eye(4, dtype=np.float32)[which]
    fit = fit_linear(rows[:400], [str(c) for c in which[:400]])
    plain = LogisticRegression(max_iter=2000).fit(rows[:400], which[:400])
    assert plain.score(rows[:400], which[:400]) == 1.0
    predicted = np.asarray(probabilities(fit.classifier.logits(rows[400:])))
    ours, theirs = (
        log_loss(which[400:], predicted),
        log_loss(which[400:], plain.predict_proba(rows[400:])),
    )
    assert ours < 0.9 * theirs


def test_a_class_with_one_row_has_a_label() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)).astype(np.float32)
    fit = fit_linear(rows, ["rare", *["a", "b"] * 29, "a"])
    assert fit.labels == ["a", "b", "rare"]


def test_constant_dimensions_do_not_amplify_rounding() -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(3, size=300)
    rows = rng.normal(size=(300, 8)) + 3 * np.eye(8)[which]
    rows[:, 5], rows[:, 6] = 1e-33 * rng.normal(size=300), 1.0
    head = fit_linear(rows.astype(np.float32), [str(c) for c in which]).classifier
    noisy = rows + 1e-7 * rng.normal(size=rows.shape)
    expected = np.asarray(head.logits(rows.astype(np.float32))).argmax(1)
    np.testing.assert_array_equal(
        np.asarray(head.logits(noisy.astype(np.float32))).argmax(1), expected
    )
