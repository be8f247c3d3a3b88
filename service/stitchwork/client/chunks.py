"""Splits large calls into parts that the service accepts."""

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stitchwork.client.float_rows import (
    ScaledRows,
    check_type,
    float32_rows,
    from_list,
    parse_scale,
)
from stitchwork.client.row_files import open_rows
from stitchwork.client.service_errors import ServiceError
from stitchwork.errors import InvalidInputError, VersionMismatchError

Floats: TypeAlias = NDArray[np.float32]
Item: TypeAlias = str | bytes

MAX_ROWS: Final = 4096
MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a part: several at once must not fill the memory of either side."""
OVERHEAD: Final = 64 * 1024
"""Bytes of a body beside its rows or items, at most."""
SMALL_COUNT: Final = 64
"""Rows or items that every service accepts, whatever its limits, if they are small."""
SMALL_BYTES: Final = 256 * 1024


class Rows(Protocol):
    """Rows that are read by slices, never all at once.

    A numpy array, a `np.memmap`, an h5py or zarr data set, or any object with these two members.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    def __getitem__(self, part: slice, /) -> Any:
        """Some of the rows."""


class Sink(Protocol):
    """A destination of rows that are written by slices, in any order."""

    def __setitem__(self, part: slice, rows: Any, /) -> None:
        """Write some of the rows."""


class ServiceLimits(NamedTuple):
    """Limits of one request."""

    rows: int
    items: int
    body_bytes: int

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> "ServiceLimits":
        """The limits in the response of `/info`."""
        limits = info["limits"]
        return cls(int(limits["max_rows"]), int(limits["max_items"]), int(limits["max_body_bytes"]))


def as_rows(value: Any, scale: Any = None) -> Rows:
    """Rows (n, d) of floats.

    Args:
        value: Rows, lists of numbers, or a file: its path.
        scale: What int8 rows are multiplied by: a number, or one for each column or row.

    Raises:
        InvalidInputError: If the shape or the type is another.
    """
    if isinstance(value, str | os.PathLike):
        opened: Rows = open_rows(os.fspath(value), scale)
        return opened
    rows: Rows = value if hasattr(value, "shape") else from_list(value)
    if len(rows.shape) != 2:
        raise InvalidInputError(f"expected rows of shape (n, d), got {tuple(rows.shape)}")
    if scale is not None:
        dtype = getattr(rows, "dtype", "rows of unknown type")
        return ScaledRows(rows, parse_scale(scale, tuple(rows.shape), dtype))
    check_type(rows)
    return rows


def all_rows(value: Any, scale: Any = None) -> Floats:
    """Rows (n, d) float32 in memory; arguments and errors are those of `as_rows`."""
    return float32_rows(as_rows(value, scale)[:])


def row_parts(
    rows: Rows, limits: ServiceLimits | None, runs: Sequence[tuple[int, int]]
) -> Iterator[slice]:
    """Parts of runs of rows within the limits of a request; without limits, each as a whole."""
    count, width = rows.shape
    size = count
    if limits:
        max_bytes = min(MAX_BYTES, limits.body_bytes - OVERHEAD)
        size = max(1, min(MAX_ROWS, limits.rows, max_bytes // (4 * max(1, width))))
    for first, end in runs:
        # No rows are one part as well: the service refuses them.
        for start in range(first, max(end, first + 1), max(1, size)):
            yield slice(start, min(start + size, end))


def item_parts(
    items: Sequence[Item],
    limits: ServiceLimits | None,
    runs: Sequence[tuple[int, int]],
    max_items: Callable[[], int],
) -> Iterator[tuple[int, list[str]]]:
    """Raw inputs as JSON strings, in parts within the limits of a request, each with its start.

    Args:
        items: The inputs.
        limits: The limits; None if every service accepts all inputs at once.
        runs: Start and stop of each run of inputs to send.
        max_items: Returns the number of inputs that a part may have now.
    """
    max_bytes = min(MAX_BYTES, limits.body_bytes - OVERHEAD) if limits else SMALL_BYTES + OVERHEAD
    for first, end in runs:
        start, part, size = first, list[str](), 0
        for i in range(first, end):
            item = items[i]
            text = json_item(item)
            # A character takes up to six bytes in JSON; base64 has only ASCII ones.
            length = len(text) if isinstance(item, bytes) else 3 * len(text) + 3
            limit = min(max_items(), limits.items) if limits else len(items)
            if part and (len(part) >= limit or size + length > max_bytes):
                yield start, part
                start, part, size = i, [], 0
            part.append(text)
            size += length
        yield start, part


def rows_are_small(rows: Rows) -> bool:
    """Whether every service accepts these rows in one request."""
    count, width = rows.shape
    return count <= SMALL_COUNT and 4 * count * width <= SMALL_BYTES


def items_are_small(items: Sequence[Item]) -> bool:
    """Whether every service accepts these items in one request."""
    return len(items) <= SMALL_COUNT and sum(len(item) for item in items) <= SMALL_BYTES // 6


def json_item(item: Item) -> str:
    """A raw input as a JSON string: a text as it is, an image file as base64."""
    return base64.b64encode(item).decode() if isinstance(item, bytes) else item


def json_items(items: Sequence[Item]) -> list[str]:
    """Raw inputs as JSON strings; see `json_item`."""
    return [json_item(item) for item in items]


class VersionCheck:
    """Checks that all parts of a call were computed with the same versions.

    Args:
        versions: Gets the versions of the first part, unless it has those of an earlier call.
    """

    def __init__(self, versions: dict[str, str]) -> None:
        self._versions = versions

    def check(self, headers: Mapping[str, str]) -> None:
        """Compare the versions that one response names with those of the first one.

        Raises:
            VersionMismatchError: If a space or a head was replaced in between.
        """
        roles = ("Stitchwork-Source", "Stitchwork-Target", "Stitchwork-Head")
        versions = {role: headers[role] for role in roles if role in headers}
        if not self._versions:
            self._versions.update(versions)
        if versions != self._versions:
            role = next(r for r in versions if versions[r] != self._versions.get(r))
            raise VersionMismatchError(
                f"{versions[role].split('@')[0]} was replaced during this call: its parts do not "
                "belong together, call again"
            )


def shift_pointer(error: ServiceError, start: int) -> None:
    """Turn the index of a row or item in a part, in an error's pointer, into that in the call."""
    parts = (error.pointer or "").split("/")
    if len(parts) > 2 and parts[1] in ("embeddings", "items") and parts[2].isdecimal():
        parts[2] = str(int(parts[2]) + start)
        error.pointer = "/".join(parts)
