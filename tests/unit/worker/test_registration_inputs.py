"""Errors of the inputs of a registration."""

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.worker.registration_inputs import item_error


def test_error_of_a_part_names_the_item_among_all() -> None:
    error = item_error(InvalidInputError("expected a text", pointer="/items/1"), range(32, 64))
    assert (error.message, error.pointer) == ("item 33: expected a text", "/items/33")
    assert error.code == ErrorCode.INVALID_INPUT


def test_long_text_is_cut_by_a_field_of_the_encoder() -> None:
    refusal = InvalidInputError(
        "expected at most 4 tokens, got 9; set truncate to cut the text",
        pointer="/items/0",
        code=ErrorCode.TOO_MANY_TOKENS,
    )
    error = item_error(refusal, [7])
    assert error.message == (
        "item 7: expected at most 4 tokens, got 9; set truncate to cut the text: register the "
        'space with "truncate": true in its encoder'
    )
    assert error.code == ErrorCode.TOO_MANY_TOKENS
