"""Splits and caps keep what they promise, whatever the classes."""

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.corpora import (
    Corpus,
    View,
    label_indices,
    stratified_sample,
    train_test_split,
)

LABELS = np.repeat([0, 1, 2], [100, 50, 10])


def texts(size: int) -> dict[str, View]:
    return {"text": View("text", [f"text {i}" for i in range(size)])}


@pytest.mark.parametrize("max_rows", [1, 7, 16, 80, 160, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_sample_keeps_the_share_of_every_class(max_rows: int, seed: int) -> None:
    sample = stratified_sample(np.arange(160), LABELS, max_rows, seed)
    assert len(np.unique(sample)) == len(sample) == min(max_rows, 160)
    counts, shares = np.bincount(LABELS[sample], minlength=3), np.array([100, 50, 10]) / 160
    assert np.abs(counts - shares * len(sample)).max() <= 1.5


def test_stratified_sample_depends_on_its_seed() -> None:
    first, again, other = (
        stratified_sample(np.arange(160), LABELS, 40, seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_train_test_split_holds_out_a_fifth_of_each_class() -> None:
    train, test = train_test_split(160, LABELS)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(160))
    np.testing.assert_array_equal(np.bincount(LABELS[test]), [20, 10, 2])


def test_subsample_has_the_same_rows_in_all_parts() -> None:
    train, test = train_test_split(160, LABELS)
    own = np.arange(160, dtype=np.float32)[:, None]
    whole = Corpus("x", LABELS, ("a", "b", "c"), train, test, texts(160), {"s": own}, LABELS + 3)
    subsample = whole.subsample(30)
    assert (len(subsample.train), len(subsample.test), subsample.size) == (30, 30, 60)
    assert subsample.labels is not None
    assert subsample.groups is not None
    for i, item in enumerate(subsample.views["text"].items):
        at = int(subsample.rows["s"][i, 0])
        assert item == f"text {at}"
        assert subsample.labels[i] == LABELS[at] == subsample.groups[i] - 3
        assert at in (train if i in subsample.train else test)


def test_subsample_above_the_size_keeps_all_rows() -> None:
    train, test = train_test_split(20, None)
    subsample = Corpus("x", None, (), train, test, texts(20)).subsample(100)
    assert (len(subsample.train), len(subsample.test)) == (16, 4)


def test_corpus_of_mismatched_parts_is_refused() -> None:
    train, test = np.arange(8), np.arange(8, 10)
    with pytest.raises(InvalidInputError, match=r"equal numbers of rows.*text: 9.*labels: 10"):
        Corpus("x", LABELS[:10], ("a",), train, test, texts(9))
    with pytest.raises(InvalidInputError, match="both in train and in test"):
        Corpus("x", None, (), np.arange(9), test, texts(10))
    with pytest.raises(InvalidInputError, match="expected test to be some of the 9 rows"):
        Corpus("x", None, (), train, test, texts(9))
    with pytest.raises(InvalidInputError, match="expected train"):
        Corpus("x", None, (), train[:0], test, texts(10))
    with pytest.raises(InvalidInputError, match="inputs or embeddings"):
        Corpus("x", None, (), train, test)
    with pytest.raises(InvalidInputError, match="at least 1 row"):
        Corpus("x", None, (), train, test, texts(10)).subsample(0)
    with pytest.raises(InvalidInputError, match="at least two rows"):
        train_test_split(1, None)


def test_label_indices_sort_names() -> None:
    labels, classes = label_indices(["b", "a", "b"])
    assert classes == ("a", "b")
    np.testing.assert_array_equal(labels, [1, 0, 1])
