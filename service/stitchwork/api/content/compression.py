"""Bodies that a client has compressed, on the routes that accept them."""

import asyncio
import zlib
from typing import Final

from starlette.requests import Request

from stitchwork.api.direct_routes import reserve
from stitchwork.api.limits import RequestLimits
from stitchwork.api.message_state import BodyBytes, request_headers
from stitchwork.errors import InputTooLargeError, MalformedInputError, UnsupportedFormatError

CODINGS: Final = ("gzip", "deflate")
SLICE_BYTES: Final = 1024 * 1024
GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
"""`wbits` of a decompressor that detects which of the two it is."""


async def decompress(request: Request, data: BodyBytes, limits: RequestLimits) -> BodyBytes:
    """The body of a request as it was before its client compressed it.

    It is expanded in slices, each of which counts against the limits before the next one.

    Args:
        request: The request.
        data: Its body as received.
        limits: Bounds on the result.

    Raises:
        UnsupportedFormatError: If the coding is another than gzip or deflate.
        MalformedInputError: If it is not compressed as its header says.
        InputTooLargeError: If it expands to more than `max_body_bytes`.
        QueueFullError: If all requests together would hold too much.
    """
    coding = request_headers(request.scope).get(b"content-encoding", b"").decode("latin-1")
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return data
    if coding not in CODINGS:
        raise UnsupportedFormatError(
            f"expected content-encoding {' or '.join(CODINGS)}, got {coding[:40]}"
        )
    decompressor, body = zlib.decompressobj(GZIP_OR_ZLIB), bytearray()
    rest = bytes(data)
    try:
        while not decompressor.eof:
            part = await asyncio.to_thread(decompressor.decompress, rest, SLICE_BYTES)
            rest = decompressor.unconsumed_tail
            if not part and not rest and not decompressor.eof:
                raise MalformedInputError(f"expected a whole body of {coding}, got a part of one")
            body += part
            if len(body) > limits.max_body_bytes:
                raise InputTooLargeError(
                    f"expected a body that expands to at most {limits.max_body_bytes} bytes "
                    "(max_body_bytes), got more"
                )
            reserve(request, len(part))
    except zlib.error as error:
        raise MalformedInputError(f"expected a body of {coding}: {error}") from error
    if decompressor.unused_data:
        raise MalformedInputError(f"expected one body of {coding}, got more bytes after it")
    return body
