"""The cost of inputs, and the jobs that requests are split into by it."""

import pytest

from stitchwork.queue.costs import COST_OF_IMAGE, MAX_JOB_COST, item_cost, split_by_cost
from stitchwork.resources import Item, TextEncoder
from tests.support.images import file, picture, png_with_header

WORDS = TextEncoder(model="words", max_length=256)
SMALL, LARGE = file(picture(224, 224)), file(picture(224, 224).resize((4_000, 3_000)), "JPEG")


def test_text_costs_by_the_tokens_that_the_model_gets() -> None:
    short, long, cut = (item_cost("word " * n, WORDS) for n in (8, 80, 10_240))
    assert short < long < cut < 2 * item_cost("word " * 204, WORDS)


def test_image_costs_by_its_pixels_and_not_by_its_bytes() -> None:
    assert item_cost(SMALL, None) < 1.2 * COST_OF_IMAGE
    assert item_cost(LARGE, None) - COST_OF_IMAGE == 1_200
    assert len(LARGE) < 20 * len(SMALL)
    assert item_cost(b"no image", None) > item_cost(LARGE, None), "its size is not known"
    bomb = png_with_header(30_000)
    assert item_cost(bomb, None) == COST_OF_IMAGE + 6_400, "it is refused, and not decoded"


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        (["word"] * 130, [64, 64, 2]),
        (["word " * 10_240] * 64, [13, 13, 13, 13, 12]),
        ([SMALL] * 64, [59, 5]),
        ([LARGE] * 8, [3, 3, 2]),
        ([LARGE, SMALL] * 4, [6, 2]),
        ([b"no image"] * 5, [2, 2, 1]),
        (["word"], [1]),
    ],
    ids=["short texts", "texts to cut", "small", "large", "mixed", "unknown", "one"],
)
def test_request_is_split_by_inputs_and_by_cost(items: list[Item], sizes: list[int]) -> None:
    parts = list(split_by_cost(items, WORDS, 64))
    assert [len(part) for part, _ in parts] == sizes
    assert [item for part, _ in parts for item in part] == items
    for part, cost in parts:
        assert cost == sum(item_cost(item, WORDS) for item in part)
        assert cost <= MAX_JOB_COST or len(part) == 1
