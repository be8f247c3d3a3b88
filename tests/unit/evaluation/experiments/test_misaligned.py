"""Detection of swapped anchors in synthetic spaces."""

import numpy as np

from stitchwork.evaluation.embedded_corpus import EmbeddedCorpus
from stitchwork.evaluation.experiments.misaligned import SHARE, misaligned
from tests.conftest import make_pair


def embedded(*, parallel: bool, k: int = 320) -> EmbeddedCorpus:
    """Two spaces of the same points or, unless parallel, with the second in another order."""
    pair = make_pair(k=k)
    y = pair.y_anchors if parallel else np.random.default_rng(0).permutation(pair.y_anchors)
    return EmbeddedCorpus(
        "made",
        {"x": pair.x_anchors, "y": y},
        {"x": "vector", "y": "vector"},
        None,
        (),
        None,
        np.arange(k),
        np.arange(0),
        {},
    )


def test_swaps_in_parallel_spaces_are_detected_without_false_positives() -> None:
    result = misaligned(embedded(parallel=True), [0, 1])
    (record,) = result["records"]
    assert (record["spaces"], record["anchors"], record["clean"]) == (["x", "y"], 300, 600)
    assert record["swapped"] == round(SHARE * 300) * 2
    # An anchor that took its nearest neighbour's place may not be detected.
    assert record["detected"] >= 0.9 * record["swapped"]
    assert record["recall"] == record["detected"] / record["swapped"]
    assert record["false_positives"] == record["clean_positives"] == 0
    assert record["precision"] == 1.0


def test_swaps_in_unrelated_spaces_are_not_detected() -> None:
    (record,) = misaligned(embedded(parallel=False), [0])["records"]
    assert record["recall"] < 0.5


def test_sizes_above_the_training_rows_are_left_out() -> None:
    assert misaligned(embedded(parallel=True, k=200), [0])["records"] == []
