"""JSON objects that name a key twice, of which a parser silently keeps one."""

import json
import re
from typing import Any, Final

from stitchwork.errors import ErrorCode, MalformedInputError

DEPTH: Final = 8
"""Objects nested deeper than this are not counted but read."""
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_COLON: Final = re.compile(rb"\s*:")
_BRACE: Final = re.compile(rb"[{}]")


def refuse(data: bytes, payload: dict[str, Any]) -> None:
    """Refuse a JSON document in which an object names a key twice.

    Costs next to nothing as long as no string has a colon in it: then a document has as many
    colons as its objects have keys. Otherwise its strings and braces are read; what lies between
    them, such as numbers, is skipped at the speed of a search for one byte.

    Args:
        data: A valid JSON document.
        payload: What it was parsed to.

    Raises:
        MalformedInputError: If a key stands twice in one object.
    """
    if data.count(b":") == _keys(payload):
        return
    seen: list[set[str]] = []
    at = 0
    # Where no quote is left the search says -1, which begins anew at a brace and matches nothing.
    while (found := _STRING.match(data, data.find(b'"', at))) is not None:
        _nest(data[at : found.start()], seen)
        at = found.end()
        if _COLON.match(data, at):
            key: str = json.loads(found[0])
            if key in seen[-1]:
                raise MalformedInputError(
                    f"the key {key[:80]!r} stands twice", code=ErrorCode.DUPLICATE_KEY
                )
            seen[-1].add(key)


def _nest(between: bytes, seen: list[set[str]]) -> None:
    """Enter and leave the objects that begin and end between two strings."""
    if b"{" in between or b"}" in between:
        for brace in _BRACE.findall(between):
            seen.append(set()) if brace == b"{" else seen.pop()


def _keys(value: Any, depth: int = 0) -> int:
    """How many keys there are where bodies have objects; those elsewhere are not looked for."""
    if depth == DEPTH:
        return 0
    if isinstance(value, dict):
        return len(value) + sum(_keys(part, depth + 1) for part in value.values())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sum(_keys(part, depth + 1) for part in value)
    return 0
