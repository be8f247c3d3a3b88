"""What the order of documents is computed from."""

import numpy as np
import pytest

from stitchwork.api.openai.rerank import check_query, cosines, input_types
from stitchwork.errors import InvalidInputError
from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Space, TextEncoder


def test_cosines_do_not_depend_on_lengths() -> None:
    query = np.array([3, 4], np.float32)
    rows = np.array([[30, 40], [-3, -4], [4, -3], [0, 0], [1e-20, 0]], np.float32)
    np.testing.assert_allclose(cosines(query, rows), [1, -1, 0, 0, 0.6], atol=1e-7)


def test_query_without_a_direction_is_refused() -> None:
    fields = {"id": "x", "version": "1", "anchor_set": "a", "anchor_set_version": "1"}
    numbers = {"dim": 2, "size": 2, "rank": 2, "condition_number": 1, "norm_mean": 1, "norm_std": 0}
    resolution = Resolution(Space.model_validate(fields | numbers))
    rows = np.ones((1, 2), np.float32)
    check_query(InferenceResult(resolution, rows, np.array([True]), np.array([True])))
    undefined = InferenceResult(resolution, rows, np.array([False]), np.array([True]))
    with pytest.raises(InvalidInputError, match="a direction in space x"):
        check_query(undefined)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (None, (None, None)),
        ({}, (None, None)),
        ({"query": "q: ", "passage": "p: "}, ("query", "document")),
        ({"query": "q: "}, ("query", "document")),
        ({"passage": "p: "}, (None, None)),
        ({"clustering": "c: "}, (None, None)),
    ],
)
def test_input_types_are_those_of_models_with_prompts_for_both(
    prompts: dict[str, str] | None, expected: tuple[str | None, str | None]
) -> None:
    assert input_types(TextEncoder(model="a/b", prompts=prompts)) == expected
