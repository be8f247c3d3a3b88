"""Token ids that are taken for those of a tokenizer."""

from typing import Any

import pytest

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.models.token_ids import TokenIdCheck
from stitchwork.queue.costs import input_amounts, item_cost
from stitchwork.queue.messages import Job, pack_job, unpack_job
from stitchwork.resources import Item, TextEncoder, TokenIds


class SmallTokenizer:
    """Puts special tokens around each text of one token."""

    def __init__(self, start: list[int], end: list[int], side: str = "right") -> None:
        self.start, self.end, self.truncation_side = start, end, side

    def __len__(self) -> int:
        return 1000

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {
            "input_ids": [*self.start, 7, *self.end],
            "special_tokens_mask": [1] * len(self.start) + [0] + [1] * len(self.end),
        }


@pytest.mark.parametrize(
    ("start", "end", "ids"),
    [([1], [2], [1, 7, 2]), ([1, 3], [], [1, 3, 9]), ([], [900], [5, 900]), ([1], [2], [1, 2, 2])],
)
def test_ids_between_special_tokens_are_taken(
    start: list[int], end: list[int], ids: list[int]
) -> None:
    # One special token that is also the id of a character of other tokenizers proves nothing.
    if not (start and end) and max([*start, *end]) <= 255:
        with pytest.raises(InvalidInputError, match="adds no special tokens"):
            TokenIdCheck(SmallTokenizer(start, end), "m").check(ids, "/items/0")
    else:
        TokenIdCheck(SmallTokenizer(start, end), "m").check(ids, "/items/0")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([7], "begin with 1 and end with 2"),
        ([1, 7], "begin with 1 and end with 2"),
        ([7, 2], "begin with 1 and end with 2"),
        ([1], "begin with 1 and end with 2"),
        ([1, 1000, 2], "less than 1000"),
        ([1, 2], "not empty"),
    ],
)
def test_other_ids_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as raised:
        TokenIdCheck(SmallTokenizer([1], [2]), "m").check(ids, "/items/3")
    assert raised.value.pointer == "/items/3"


def test_ids_for_a_tokenizer_without_special_tokens_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="check_embedding_ctx_length=False") as raised:
        TokenIdCheck(SmallTokenizer([], []), "m").check([7], "/items/0")
    assert raised.value.code == ErrorCode.TOKEN_IDS


def test_cut_ids_keep_the_special_tokens_and_the_side_of_the_tokenizer() -> None:
    ids = [1, 10, 11, 12, 13, 2]
    assert TokenIdCheck(SmallTokenizer([1], [2]), "m").cut(ids, 4) == [1, 10, 11, 2]
    assert TokenIdCheck(SmallTokenizer([1], [2], "left"), "m").cut(ids, 4) == [1, 12, 13, 2]


def test_job_carries_token_ids_beside_texts() -> None:
    encoder = TextEncoder(model="a/b")
    items: list[Item] = ["é", TokenIds.of([1, 70_000, 2])]
    _, unpacked = unpack_job(bytes(pack_job(Job(id="", encoder=encoder), items, "1")))
    assert unpacked == items
    assert isinstance(unpacked[1], TokenIds)
    assert unpacked[1].ids == [1, 70_000, 2]
    assert item_cost(items[1], encoder) > item_cost("", encoder)
    assert input_amounts(items, ("tokens", "pixels")) == {"items": 2, "tokens": 4, "pixels": 0}
