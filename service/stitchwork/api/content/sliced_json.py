"""Large JSON responses: rendered and sent in slices.

To render all at once would hold the interpreter's lock for seconds, and the text takes several
times the memory of its numbers. A slice is rendered when the client has read the one before.
"""

import asyncio
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import message_state
from stitchwork.api.schemas.response_model import json_fields
from stitchwork.errors import InputTooLargeError

SLICE_VALUES: Final = 64 * 1024
"""Numbers or labels in one slice: a few milliseconds."""

_renderer: Final = ThreadPoolExecutor(1, thread_name_prefix="render")
"""One thread, since several would compete with the event loop for the interpreter's lock."""


class JsonPartsResponse(Response):
    """JSON that is sent in parts.

    Args:
        parts: Consecutive parts of the text, none empty; each is rendered on a thread.
        headers: Further headers.
    """

    def __init__(self, parts: Iterator[bytes], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers=headers, media_type="application/json")
        # Not known yet.
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as long as the client is connected."""
        loop, state = asyncio.get_running_loop(), message_state(scope)
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        while part := await loop.run_in_executor(_renderer, next, self._parts, b""):
            if state is not None and state.is_disconnected:
                return
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class SlicedJsonResponse(JsonPartsResponse):
    """A JSON object with one long list, or that list alone, which is sent in slices.

    Args:
        name: Name of the list; None for the list alone.
        slices: Consecutive parts of the list; each is computed and rendered on a thread.
        fields: The other fields.
        headers: Further headers.
    """

    def __init__(
        self,
        name: str | None,
        slices: Iterable[Any],
        fields: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(_render(name, slices, fields), headers)


def to_json(value: Any) -> bytes:
    """A value as JSON: models, dataclasses, arrays, and what is made of them."""
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_to_plain, option=option)


def with_nulls(values: Iterable[Any], nulls: Container[int], start: int = 0) -> list[Any]:
    """Values of consecutive inputs, with None in the place of some.

    Args:
        values: One for each input.
        nulls: Indices of the inputs that have none.
        start: Index of the first of these inputs.
    """
    return [None if start + i in nulls else value for i, value in enumerate(values)]


def check_json_values(count: int, limits: RequestLimits, alternative: str) -> None:
    """Check the number of values in a JSON response, before they are computed.

    Args:
        count: The number.
        limits: Their bound.
        alternative: What the client can do instead.

    Raises:
        InputTooLargeError: If there are more than `max_json_values`.
    """
    if count > limits.max_json_values:
        raise InputTooLargeError(
            f"expected a JSON response of at most {limits.max_json_values} values "
            f"(max_json_values), got {count}: {alternative}"
        )


def row_slices(count: int, width: int, values: int = SLICE_VALUES) -> list[slice]:
    """Slices of rows with at most so many values each, or one row."""
    step = max(1, values // max(1, width))
    return [slice(start, start + step) for start in range(0, count, step)]


def _render(name: str | None, slices: Iterable[Any], fields: Mapping[str, Any]) -> Iterator[bytes]:
    before = b"[" if name is None else b'{"%s":[' % name.encode()
    for values in slices:
        yield before + to_json(values)[1:-1]
        before = b","
    if name is None:
        yield b"]"
        return
    yield (b"]," if fields else b"]") + to_json(fields)[1:]


def _to_plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return json_fields(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
