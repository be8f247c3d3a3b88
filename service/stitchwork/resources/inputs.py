"""Raw inputs: texts, token ids and image files, as records store them and requests send them."""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.resources.encoder_specs import Modality

Arrays: TypeAlias = dict[str, NDArray[Any]]
Item: TypeAlias = str | bytes
"""One raw input: a text, `TokenIds` of one, or the bytes of an image file."""

LONG_CHARACTERS: Final = 4096
"""Length from which the text of a request is a `LongText`."""
SLICE_BYTES: Final = 1 << 20
"""Bytes of a long text that are looked at in one call, which holds the interpreter's lock."""


class TokenIds(bytes):
    """A text as the ids of its tokens by the model's own tokenizer: (t,) little-endian uint32."""

    @classmethod
    def of(cls, ids: Sequence[int]) -> "TokenIds":
        """The token ids of these integers."""
        return cls(np.array(ids, "<u4").tobytes())

    @property
    def ids(self) -> list[int]:
        """The ids as integers."""
        values: list[int] = np.frombuffer(self, "<u4").tolist()
        return values


@dataclass(frozen=True, slots=True)
class LongText:
    """A long text of a request, or an image in base64, as its bytes in UTF-8.

    A `str` would take four bytes for each character if one of them is rare.

    Attributes:
        data: The bytes.
        characters: Number of its characters.
        is_blank: Whether it has no visible character.
        has_nul: Whether it has a NUL character.
        is_unicode: Whether it is valid Unicode; a lone surrogate is not.
        is_image: Whether the request names it as an image.
    """

    data: bytes | memoryview = field(repr=False)
    characters: int
    is_blank: bool = False
    has_nul: bool = False
    is_unicode: bool = True
    is_image: bool = False

    @classmethod
    def of(cls, text: str, *, is_image: bool = False) -> "LongText":
        """A text as its bytes."""
        try:
            data, is_unicode = text.encode(), True
        except UnicodeEncodeError:
            data, is_unicode = text.encode("utf-8", "surrogatepass"), False
        return cls(data, len(text), not text or text.isspace(), "\0" in text, is_unicode, is_image)

    @classmethod
    def of_bytes(cls, data: bytes | memoryview) -> "LongText":
        """The text of bytes, which are not copied; it is not Unicode if they are not UTF-8."""
        characters, is_blank, has_nul = 0, True, False
        try:
            for part in _decode_slices(data):
                characters += len(part)
                is_blank = is_blank and (not part or part.isspace())
                has_nul = has_nul or "\0" in part
        except UnicodeDecodeError:
            return cls(data, len(data), is_unicode=False)
        return cls(data, characters, is_blank, has_nul)

    def __len__(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        return str(self.data, "utf-8", "surrogatepass")


Input: TypeAlias = Item | memoryview | LongText
"""One raw input of a request: an `Item`, a long text, or the memory of an image file."""


def item_bytes(item: Input) -> bytes | memoryview:
    """The bytes of a raw input, of a text in UTF-8; only those of a short text are copied."""
    if isinstance(item, str):
        return item.encode()
    return item.data if isinstance(item, LongText) else item


def pack_items(items: Sequence[Input]) -> Arrays:
    """Raw inputs as two arrays: their bytes end to end, and where each one ends.

    Args:
        items: n texts or n image files.

    Returns:
        `blob` (total bytes,) uint8 and `ends` (n,) int64; `unpack_items` is the inverse.
    """
    parts = [item_bytes(item) for item in items]
    blob = np.frombuffer(b"".join(parts), dtype=np.uint8)
    return {"blob": blob, "ends": np.cumsum([len(part) for part in parts], dtype=np.int64)}


def unpack_items(
    arrays: Mapping[str, NDArray[Any]], modality: Modality, start: int = 0, stop: int | None = None
) -> list[Item]:
    """Items `start` to `stop` of the result of `pack_items`."""
    ends = [0, *arrays["ends"].tolist()]
    blob = memoryview(np.ascontiguousarray(arrays["blob"]).data)
    last = len(ends) - 1 if stop is None else min(stop, len(ends) - 1)
    raw = [bytes(blob[ends[i] : ends[i + 1]]) for i in range(start, last)]
    return [part.decode() for part in raw] if modality == "text" else list(raw)


def _decode_slices(data: bytes | memoryview) -> Iterator[str]:
    """The text of UTF-8 in slices.

    Raises:
        UnicodeDecodeError: If it is not UTF-8.
    """
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(data)
    for start in range(0, len(view), SLICE_BYTES):
        yield decoder.decode(view[start : start + SLICE_BYTES])
    yield decoder.decode(b"", final=True)
