"""Digests of what a head was fitted on recognise it in another form, and nothing else."""

import numpy as np

from stitchwork.resources import pack_items
from stitchwork.resources.training_inputs import Digests, digests_of, packed_digests, row_digests

TEXTS = ["a  text", "another\ttext ", "a third one"]


def text_digests(texts: list[str]) -> Digests:
    packed = pack_items(texts)
    return packed_digests(packed["blob"], packed["ends"])


def test_texts_that_differ_in_white_space_only_have_the_same_digests() -> None:
    expected = text_digests(TEXTS).tolist()
    assert text_digests([" a text\n", "another text", "a third  one"]).tolist() == expected
    assert not set(text_digests(["atext", "Another text"])) & set(expected)


def test_digests_of_most_rows_survive_noise_and_scaling() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    digests = row_digests(rows)
    assert len(set(digests.tolist())) == 200
    noisy = rows * np.float32(1 + 1e-6) * np.float32(4)
    assert np.mean(row_digests(noisy) == digests) > 0.8
    other = row_digests(rows + np.float32(0.01) * rows[::-1])
    assert not np.isin(other, digests).any()


def test_digests_of_zero_and_huge_rows_differ() -> None:
    rows = np.array([[0, 0], [1e30, 1e29], [1e30, -1e29], [1e-30, 5e-31]], np.float32)
    assert len(set(row_digests(rows).tolist())) == 4
    assert row_digests(-rows[:1]).tolist() == row_digests(rows[:1]).tolist()


def test_texts_and_their_rows_are_both_recognised() -> None:
    rows = np.eye(3, dtype=np.float32)
    digests = digests_of({**pack_items(TEXTS), "classes": np.zeros(3, np.int64)}, rows)
    assert np.isin(text_digests(TEXTS), digests).all()
    assert np.isin(row_digests(rows), digests).all()
