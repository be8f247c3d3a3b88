"""Rows of numbers in JSON as one array, without a Python object for each number.

simdjson parses them several times as fast as a parser of documents. It is called with a slice of
rows at a time, since each call holds the interpreter's lock, and a number of many digits can take a
hundred times as long as others.
"""

import re
from typing import Any, Final, NamedTuple

import numpy as np
import simdjson
from numpy.typing import NDArray

SLICE_BYTES: Final = 64 * 1024
"""Text of rows that is parsed in one call, to the end of its last row: a tenth of a millisecond, or
ten milliseconds of the slowest numbers."""
MAX_SLICE_BYTES: Final = 128 * 1024
"""Text of the longest slice, whose rows are not parsed here if they are longer."""
_LIST: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\[")
_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_MAX_BLANK: Final = 256
"""Bytes between the rows and what follows them."""


class RowsText(NamedTuple):
    """The rows of numbers of a JSON object, cut out of it, not parsed yet.

    Attributes:
        rest: The object with null in the place of the rows. The whole is a JSON object if this is
            one, with unique keys, and the rows can be parsed.
        start: Where the first row begins in the text of the object.
        end: Where the last row ends.
    """

    rest: bytes
    start: int
    end: int


def find_rows(data: bytes, name: str) -> RowsText | None:
    """Find the rows of numbers of a JSON object.

    Args:
        data: A JSON document.
        name: Field that may hold them.

    Returns:
        Where they are, if they are rows of numbers; None if they are none, or not found.
    """
    key = b'"%b"' % name.encode()
    before = data[: max(0, data.find(key))]
    # With these, the key is one of the object itself, and not within a text.
    if b"\\" in before or before.count(b'"') % 2 or before.count(b"{") != 1:
        return None
    opening = _LIST.match(data, len(before) + len(key))
    if opening is None:
        return None
    start = opening.end()
    # Rows of numbers have neither.
    ends = [end for end in (data.find(b'"', start), data.find(b"}", start)) if end >= 0]
    stop = min(ends, default=start)
    tail = max(start, stop - _MAX_BLANK)
    closing = tail + len(data[tail:stop].rstrip(b" \t\r\n,")) - 1
    if closing < start or data[closing : closing + 1] != b"]":
        return None
    return RowsText(data[: start - 1] + b"null" + data[closing + 1 :], start, closing)


def parse_rows(data: bytes, start: int, end: int) -> NDArray[np.float64] | None:
    """Parse rows of numbers.

    Args:
        data: A text that has them.
        start: Where the first row begins.
        end: Where the last row ends.

    Returns:
        (n, d) float64, n ≥ 1; None if they are anything but lists of numbers of one length, or
        too long to be parsed here.
    """
    parser, parts = simdjson.Parser(), list[NDArray[np.float64]]()
    while True:
        # Not found is 0: what is left is one slice.
        cut = data.find(b"]", start + SLICE_BYTES, end) + 1 or end
        if cut - start > MAX_SLICE_BYTES:
            return None
        part = _parse_slice(parser, b"[%b]" % data[start:cut])
        if part is None or part.shape[1] != (parts or [part])[0].shape[1]:
            return None
        parts.append(part)
        after = _BLANK.match(data, cut, end)
        start = after.end() if after else cut
        if start == end:
            return np.concatenate(parts) if len(parts) > 1 else part
        if data[start : start + 1] != b",":
            return None
        start += 1


def _parse_slice(parser: simdjson.Parser, text: bytes) -> NDArray[np.float64] | None:
    """Rows from a list of lists; what refers to the parser ends with this call."""
    try:
        rows: Any = parser.parse(text)
        numbers = np.frombuffer(rows.as_buffer(of_type="d"), np.float64)
        count, width = len(rows), len(rows[0])
        # The buffer is flat whatever the nesting: one list around as many lists as there are rows
        # proves that no row holds a list.
        if text.count(b"[") != count + 1 or any(len(row) != width for row in rows):
            return None
        return numbers.reshape(count, width)
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError):
        return None
