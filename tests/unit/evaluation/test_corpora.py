"""Splits and caps keep what they promise, whatever the classes."""

import numpy as np
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.evaluation.corpora import Corpus, View, evenly, numbered, split

LABELS = np.repeat([0, 1, 2], [100, 50, 10])


def texts(size: int) -> dict[str, View]:
    return {"text": View("text", [f"text {i}" for i in range(size)])}


@pytest.mark.parametrize("most", [1, 7, 16, 80, 160, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_evenly_keeps_the_share_of_every_class(most: int, seed: int) -> None:
    kept = evenly(np.arange(160), LABELS, most, seed)
    assert len(np.unique(kept)) == len(kept) == min(most, 160)
    counts, shares = np.bincount(LABELS[kept], minlength=3), np.array([100, 50, 10]) / 160
    assert np.abs(counts - shares * len(kept)).max() <= 1.5


def test_evenly_is_decided_by_its_seed() -> None:
    first, again, other = (evenly(np.arange(160), LABELS, 40, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_split_holds_out_a_fifth_of_each_class() -> None:
    train, test = split(160, LABELS)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(160))
    np.testing.assert_array_equal(np.bincount(LABELS[test]), [20, 10, 2])


def test_a_capped_corpus_has_the_same_rows_in_all_its_parts() -> None:
    train, test = split(160, LABELS)
    own = np.arange(160, dtype=np.float32)[:, None]
    whole = Corpus("x", LABELS, ("a", "b", "c"), train, test, texts(160), {"s": own}, LABELS + 3)
    capped = whole.capped(30)
    assert (len(capped.train), len(capped.test), capped.size) == (30, 30, 60)
    assert capped.labels is not None
    assert capped.groups is not None
    for i, item in enumerate(capped.views["text"].items):
        at = int(capped.rows["s"][i, 0])
        assert item == f"text {at}"
        assert capped.labels[i] == LABELS[at] == capped.groups[i] - 3
        assert at in (train if i in capped.train else test)


def test_a_cap_above_the_size_keeps_all() -> None:
    train, test = split(20, None)
    capped = Corpus("x", None, (), train, test, texts(20)).capped(100)
    assert (len(capped.train), len(capped.test)) == (16, 4)


def test_parts_that_do_not_fit_are_refused() -> None:
    train, test = np.arange(8), np.arange(8, 10)
    with pytest.raises(InvalidInputError, match=r"as many rows in each.*text: 9.*labels: 10"):
        Corpus("x", LABELS[:10], ("a",), train, test, texts(9))
    with pytest.raises(InvalidInputError, match="both in train and in test"):
        Corpus("x", None, (), np.arange(9), test, texts(10))
    with pytest.raises(InvalidInputError, match="expected test to be some of the 9 rows"):
        Corpus("x", None, (), train, test, texts(9))
    with pytest.raises(InvalidInputError, match="expected train"):
        Corpus("x", None, (), train[:0], test, texts(10))
    with pytest.raises(InvalidInputError, match="inputs or embeddings"):
        Corpus("x", None, (), train, test)
    with pytest.raises(InvalidInputError, match="at least one row"):
        Corpus("x", None, (), train, test, texts(10)).capped(0)
    with pytest.raises(InvalidInputError, match="at least two rows"):
        split(1, None)


def test_numbered_sorts_names() -> None:
    labels, classes = numbered(["b", "a", "b"])
    assert classes == ("a", "b")
    np.testing.assert_array_equal(labels, [1, 0, 1])
