"""The measurement of swapped anchors, on data whose answer is known."""

import numpy as np

from stitchwork.evaluation.embedded_corpus import Embedded
from stitchwork.evaluation.experiments.misaligned import SHARE, misaligned
from tests.conftest import make_pair


def embedded(*, parallel: bool, k: int = 320) -> Embedded:
    """Two spaces of one world or, unless they are parallel, the second in another order."""
    pair = make_pair(k=k)
    y = pair.y_anchors if parallel else np.random.default_rng(0).permutation(pair.y_anchors)
    return Embedded(
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


def test_of_a_clean_world_nearly_all_are_found_and_none_else() -> None:
    told = misaligned(embedded(parallel=True), [0, 1])
    (record,) = told["records"]
    assert (record["spaces"], record["anchors"], record["clean"]) == (["x", "y"], 300, 600)
    assert record["swapped"] == round(SHARE * 300) * 2
    # An anchor that stands in its neighbour's place may pass for it.
    assert record["found"] >= 0.9 * record["swapped"]
    assert record["recall"] == record["found"] / record["swapped"]
    assert record["wrongly"] == record["false"] == 0
    assert record["precision"] == 1.0


def test_of_spaces_with_nothing_in_common_none_can_be_found() -> None:
    (record,) = misaligned(embedded(parallel=False), [0])["records"]
    assert record["recall"] < 0.5


def test_sizes_beyond_the_training_rows_are_left_out() -> None:
    assert misaligned(embedded(parallel=True, k=200), [0])["records"] == []
