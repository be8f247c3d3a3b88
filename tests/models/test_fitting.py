import numpy as np
import pytest

from service.errors import InvalidInput
from service.models.fitting import fit_linear


@pytest.mark.parametrize("classes", [2, 5])
def test_a_fitted_head_takes_raw_embeddings(classes: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 16)) * 5
    which = rng.integers(classes, size=300)
    # Columns of very different scale and offset: the standardisation must be folded in.
    rows = (centres[which] + rng.normal(size=(300, 16))) * np.logspace(-3, 3, 16) + 100
    labels = [f"c{i}" for i in which]
    fit = fit_linear(rows.astype(np.float32), labels)
    scores = fit.classifier.logits(rows.astype(np.float32))
    found = [fit.labels[i] for i in np.asarray(scores).argmax(1)]
    assert np.mean([a == b for a, b in zip(found, labels, strict=True)]) > 0.97
    assert fit.train_accuracy > 0.97
    assert fit.classifier.classes == classes


def test_labels_keep_their_letters() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert fit_linear(rows, ["a\0", "a", "b ", "b"]).labels == ["a", "a\0", "b", "b "]


@pytest.mark.parametrize("labels", [["a", "a"], ["a"]])
def test_what_cannot_be_fitted(labels: list[str]) -> None:
    with pytest.raises(InvalidInput):
        fit_linear(np.eye(2, dtype=np.float32), labels)
