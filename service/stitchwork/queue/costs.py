"""The cost of inputs, in units of about one token, which is known before any work is done."""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Final

from stitchwork.queue.image_headers import image_pixels
from stitchwork.resources import EncoderSpec, Input, LongText, TextEncoder, TokenIds

CHARACTERS_PER_TOKEN: Final = 4
MAX_TOKENS: Final = 512
"""Tokens that a model takes whose spec does not say so."""
COST_OF_TEXT: Final = 8
CHARACTERS_PER_UNIT: Final = 1_024
"""Characters of a text that is cut that take as long as one token that a model gets."""
COST_OF_IMAGE: Final = 64
PIXELS_PER_UNIT: Final = 10_000
"""Pixels that take as long to decode and to resize as one unit of cost."""
UNKNOWN_PIXELS: Final = 16_000_000
"""Pixels of an image whose header does not tell them."""
MAX_PIXELS: Final = 64_000_000
"""Most pixels of an image that a worker decodes, by default."""
MAX_JOB_COST: Final = 4_096
"""Cost of a job of several inputs: 15 texts of 256 tokens, or 3 images of 12 megapixels."""
MAX_SMALL_COST: Final = 1_024
"""Cost of a request that is served early, while all classes have jobs, if its caller has no other
in the queue."""


def item_cost(item: Input, encoder: EncoderSpec | None) -> int:
    """About how much work an input is.

    A text costs as many units as it has tokens of those that the model takes, and a few more. An
    image costs the same for the model whatever its size, since it is resized, and more the longer
    it takes to decode.
    """
    if isinstance(item, TokenIds):
        return COST_OF_TEXT + len(item.ids)
    if isinstance(item, str | LongText):
        max_tokens = encoder.max_length if isinstance(encoder, TextEncoder) else None
        characters = _character_count(item)
        tokens = min(max_tokens or MAX_TOKENS, characters // CHARACTERS_PER_TOKEN)
        return COST_OF_TEXT + tokens + characters // CHARACTERS_PER_UNIT
    # What has more is refused by its header.
    pixels = min(image_pixels(item) or UNKNOWN_PIXELS, MAX_PIXELS)
    return COST_OF_IMAGE + pixels // PIXELS_PER_UNIT


def split_by_cost(
    items: Sequence[Input],
    encoder: EncoderSpec | None,
    max_items: int,
    max_cost: float = MAX_JOB_COST,
) -> Iterator[tuple[Sequence[Input], int]]:
    """Inputs in order, in parts for one job each, with the costs of these.

    Args:
        items: The inputs.
        encoder: The encoder.
        max_items: Maximum number of inputs of a job.
        max_cost: Maximum cost of a job of several inputs, if it is less than `MAX_JOB_COST`.

    Yields:
        Parts of at most so many inputs and of at most that cost, or one input.
    """
    limit = min(max_cost, MAX_JOB_COST)
    yield from split_items(items, lambda item: item_cost(item, encoder), max_items, limit)


def split_items(
    items: Sequence[Input], cost_of: Callable[[Input], int], max_items: int, limit: float
) -> Iterator[tuple[Sequence[Input], int]]:
    """Inputs in order, in parts for one job each, with the costs of these.

    Args:
        items: The inputs.
        cost_of: The cost of an input.
        max_items: Maximum number of inputs of a part.
        limit: Maximum cost of a part of several inputs.

    Yields:
        Parts of at most so many inputs and of at most that cost, or one input.
    """
    start, cost = 0, 0
    for i, item in enumerate(items):
        added = cost_of(item)
        if i > start and (i - start == max_items or cost + added > limit):
            yield items[start:i], cost
            start, cost = i, 0
        cost += added
    if start < len(items):
        yield items[start:], cost


def input_amounts(items: Sequence[Input], units: Container[str]) -> dict[str, int]:
    """What inputs use of rates of these units: items, tokens or pixels."""
    amounts = {"items": len(items)}
    if "tokens" in units:
        amounts["tokens"] = sum(map(_token_count, items))
    if "pixels" in units:
        images = (item for item in items if not isinstance(item, str | TokenIds | LongText))
        amounts["pixels"] = sum(image_pixels(image) or UNKNOWN_PIXELS for image in images)
    return amounts


def _character_count(text: str | LongText) -> int:
    return text.characters if isinstance(text, LongText) else len(text)


def _token_count(item: Input) -> int:
    """About how many tokens an input has."""
    if isinstance(item, TokenIds):
        return len(item.ids)
    if isinstance(item, str | LongText):
        return _character_count(item) // CHARACTERS_PER_TOKEN + 1
    return 0
