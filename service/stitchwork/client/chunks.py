"""What is too much for one request, in parts that the service takes."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.client.service_errors import ServiceError
from stitchwork.errors import InvalidInputError, VersionMismatchError

Floats: TypeAlias = NDArray[np.float32]
Item: TypeAlias = str | bytes

MOST_ROWS: Final = 4096
MOST_BYTES: Final = 8 * 1024 * 1024
"""A part is no larger than this, lest several at once fill the memory of either side."""
MOST_ITEMS: Final = 256
"""Raw inputs of one part: several at once must be through well within a request's time."""
OVERHEAD: Final = 64 * 1024
"""Bytes of a body that are not its rows or items, at most."""
FEW: Final = 64
"""Rows or items that any service takes, whatever its limits, as long as they are small."""
SMALL: Final = 256 * 1024


class Rows(Protocol):
    """Rows that can be read a part at a time: an array, a memory-mapped file, a data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    def __getitem__(self, part: slice, /) -> Any:
        """Some of the rows."""


class Sink(Protocol):
    """What takes rows a part at a time, in any order."""

    def __setitem__(self, part: slice, rows: Any, /) -> None:
        """Some of the rows."""


class Limits(NamedTuple):
    """What one request may hold."""

    rows: int
    items: int
    body_bytes: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Limits":
        """From what `/info` says."""
        told = info["limits"]
        return cls(int(told["max_rows"]), int(told["max_items"]), int(told["max_body_bytes"]))


def as_rows(value: Any) -> Rows:
    """Rows (n, d), lists of numbers made an array.

    Raises:
        InvalidInputError: If it is of another shape.
    """
    rows: Rows = value if hasattr(value, "shape") else np.asarray(value, np.float32)
    if len(rows.shape) != 2:
        raise InvalidInputError(f"expected rows of shape (n, d), got {tuple(rows.shape)}")
    return rows


def row_parts(rows: Rows, limits: Limits | None) -> Iterator[slice]:
    """Parts of rows that one request may hold; no limits: all of them."""
    count, width = rows.shape
    size = count
    if limits:
        most = min(MOST_BYTES, limits.body_bytes - OVERHEAD)
        size = max(1, min(MOST_ROWS, limits.rows, most // (4 * max(1, width))))
    # Of no rows there is one part as well: it is for the service to refuse them.
    for start in range(0, max(1, count), max(1, size)):
        yield slice(start, min(start + size, count))


def item_parts(items: Sequence[Item], limits: Limits | None) -> Iterator[tuple[int, list[str]]]:
    """Raw inputs as JSON holds them, in parts that one request may hold, each with its start."""
    count = min(MOST_ITEMS, limits.items) if limits else max(1, len(items))
    most = min(MOST_BYTES, limits.body_bytes - OVERHEAD) if limits else SMALL + OVERHEAD
    start, part, size = 0, list[str](), 0
    for i, item in enumerate(items):
        text = json_item(item)
        # A letter may take six bytes in JSON; base64 has only plain ones.
        length = len(text) if isinstance(item, bytes) else 3 * len(text) + 3
        if part and (len(part) >= count or size + length > most):
            yield start, part
            start, part, size = i, [], 0
        part.append(text)
        size += length
    yield start, part


def is_small(rows: Rows) -> bool:
    """Whether any service takes these rows in one request."""
    count, width = rows.shape
    return count <= FEW and 4 * count * width <= SMALL


def are_few(items: Sequence[Item]) -> bool:
    """Whether any service takes these items in one request."""
    return len(items) <= FEW and sum(len(item) for item in items) <= SMALL // 6


def json_item(item: Item) -> str:
    """One raw input as JSON can hold it: a text as it is, an image file as base64."""
    return base64.b64encode(item).decode() if isinstance(item, bytes) else item


class Versions:
    """Sees to it that all parts were answered with the same versions."""

    def __init__(self) -> None:
        self._first: dict[str, str] | None = None

    def check(self, headers: Mapping[str, str]) -> None:
        """Compare what one answer was made with to the others.

        Raises:
            VersionMismatchError: If a space or a head was replaced meanwhile.
        """
        roles = ("Stitchwork-Source", "Stitchwork-Target", "Stitchwork-Head")
        used = {role: headers[role] for role in roles if role in headers}
        self._first = self._first or used
        if used != self._first:
            role = next(role for role in used if used[role] != self._first.get(role))
            raise VersionMismatchError(
                f"{used[role].split('@')[0]} was replaced while parts of this call were answered: "
                "the parts do not belong together, send them again"
            )


def moved(error: ServiceError, start: int) -> None:
    """Let the pointer to a row or an item of a part name its place among all of them."""
    parts = (error.pointer or "").split("/")
    if len(parts) > 2 and parts[1] in ("embeddings", "items") and parts[2].isdecimal():
        parts[2] = str(int(parts[2]) + start)
        error.pointer = "/".join(parts)
