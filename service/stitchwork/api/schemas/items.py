"""Raw inputs: texts, and image files in base64 or as the parts of a multipart body."""

from collections.abc import Sequence
from typing import Final

from stitchwork.api.content import validation
from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.resources import (
    Item,
    Modality,
    TokenIds,
)

MAX_DATA_HEAD: Final = 200
"""Characters in which the head of a data URI ends."""
SLICE_CHARS: Final = 1024 * 1024
"""Characters of a text that are encoded in one call, which holds the interpreter's lock."""


class EncodedImage(str):
    """An image that its request names as one: in base64, as a data URI, or by URL."""

    __slots__ = ()


def decode_items(
    items: list[str | bytes], modality: Modality, max_items: int, setting: str = "max_items"
) -> list[Item]:
    """Raw inputs as texts or as the bytes of image files.

    Args:
        items: Texts, base64 of image files, or bytes of either.
        modality: Their modality.
        max_items: The largest number of items.
        setting: Name of that limit in the error.

    Raises:
        InputTooLargeError: If there are more than `max_items`.
        InvalidInputError: If one is not of that modality.
    """
    validation.check_count(len(items), max_items, "items", setting, "/items")
    return [_decode_item(item, modality, f"/items/{i}") for i, item in enumerate(items)]


def plain_items(items: Sequence[str | bytes], modality: Modality) -> list[str | bytes]:
    """Raw inputs as other protocols send them: images may be data URIs, or have MIME's line ends.

    Texts, bytes and URLs are returned unchanged.

    Raises:
        InvalidInputError: If one is named as an image, and the modality is another.
    """
    if modality != "image":
        for i, item in enumerate(items):
            if isinstance(item, EncodedImage):
                raise InvalidInputError(
                    f"expected a {modality}, as the encoder takes {modality}s, got an image",
                    pointer=f"/items/{i}",
                )
        return list(items)
    return [_plain_base64(item) if isinstance(item, str) else item for item in items]


def _plain_base64(image: str) -> str:
    head, comma, _ = image[:MAX_DATA_HEAD].partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        image = image[len(head) + 1 :]
    return image.replace("\n", "").replace("\r", "")


def _decode_item(item: str | bytes, modality: Modality, pointer: str) -> Item:
    if isinstance(item, TokenIds):
        if modality == "text":
            return item
        raise InvalidInputError(
            f"expected an {modality}, got token ids", pointer=pointer, code=ErrorCode.TOKEN_IDS
        )
    if modality == "text":
        try:
            if isinstance(item, bytes):
                text = item.decode()
            else:
                text = item
                _check_unicode(text)
        except UnicodeError as error:
            raise InvalidInputError("expected a text of valid Unicode", pointer=pointer) from error
        if not text or text.isspace():
            raise InvalidInputError("expected a text that is not empty", pointer=pointer)
        if "\0" in text:
            raise InvalidInputError("expected a text without NUL characters", pointer=pointer)
        return text
    return item if isinstance(item, bytes) else validation.image_bytes(item, pointer)


def _check_unicode(text: str) -> None:
    """Raise UnicodeEncodeError if a text has half of a surrogate pair."""
    for start in range(0, len(text), SLICE_CHARS):
        text[start : start + SLICE_CHARS].encode()
