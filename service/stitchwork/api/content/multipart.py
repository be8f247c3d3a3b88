"""Multipart forms: raw inputs as file parts or text parts `items`, other fields as text parts."""

from typing import TYPE_CHECKING, Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stitchwork.api.schemas.fields import TextParameter
from stitchwork.errors import (
    ErrorCode,
    InputTooLargeError,
    InvalidInputError,
    MalformedInputError,
)

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

ITEMS: Final = "items"
MAX_FIELDS: Final = 64
"""Text parts of a form: more than any request has fields."""


class _Form:
    """Collects the parts of a form in memory; raw inputs are never written to a disk."""

    def __init__(self, max_items: int, setting: str) -> None:
        self.items: list[str | bytes] = []
        self.fields: list[tuple[str, str]] = []
        self.is_complete = False
        self._max_items = max_items
        self._setting = setting
        self._headers: dict[bytes, bytes] = {}
        self._header = [b"", b""]
        self._name = ""
        self._is_file = False
        self._content: list[bytes] = []

    @property
    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": lambda data, start, end: self._content.append(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._headers, self._content = {}, []

    def _add_header(self, index: int, data: bytes) -> None:
        self._header[index] += data

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = [b"", b""]

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        if name is None:
            raise MalformedInputError(
                "expected multipart/form-data: a name in the Content-Disposition of each part"
            )
        self._name, self._is_file = _decode(name), b"filename" in options
        is_item = self._is_file or self._name == ITEMS
        if is_item and len(self.items) >= self._max_items:
            raise _too_many(self._max_items, ITEMS, f" ({self._setting})")
        if not is_item and len(self.fields) >= MAX_FIELDS:
            raise _too_many(MAX_FIELDS, "other parts", "")

    def _end_part(self) -> None:
        content = b"".join(self._content)
        if self._is_file:
            self.items.append(content)
        elif self._name == ITEMS:
            self.items.append(_decode(content))
        else:
            self.fields.append((self._name, _decode(content)))

    def _end(self) -> None:
        self.is_complete = True


def parse(content_type: str, data: bytes, max_items: int, setting: str) -> dict[str, Any]:
    """Parse a multipart/form-data body.

    Args:
        content_type: The header, which names the boundary.
        data: The body.
        max_items: The largest number of items; it is checked before one more is read.
        setting: Name of that limit in the error.

    Returns:
        The text parts by name, and under `items` the contents of all file parts and of text parts
        of that name, in order.

    Raises:
        MalformedInputError: If the bytes are not such a form, or its end is missing.
        InvalidInputError: If another field is repeated.
        InputTooLargeError: If it has more parts of either kind.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedInputError("expected multipart/form-data: a boundary in content-type")
    form = _Form(max_items, setting)
    try:
        parser = MultipartParser(boundary, form.callbacks)
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise MalformedInputError(f"expected multipart/form-data: {error}") from error
    if not form.is_complete:
        raise MalformedInputError(
            "expected multipart/form-data: the closing boundary is missing, the body was cut"
        )
    payload: dict[str, Any] = {ITEMS: form.items} if form.items else {}
    for name, text in form.fields:
        if name in payload:
            raise InvalidInputError(
                f"expected multipart/form-data with one part {name!r}, got several",
                code=ErrorCode.DUPLICATE_KEY,
            )
        payload[name] = TextParameter(text)
    return payload


def _too_many(count: int, kind: str, setting: str) -> InputTooLargeError:
    return InputTooLargeError(
        f"expected at most {count} {kind}{setting} in multipart/form-data, got more"
    )


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
