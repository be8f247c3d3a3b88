"""Multipart forms: raw inputs as file parts, other fields as text parts."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from stitchwork.api.limits import RequestLimits
from stitchwork.api.schemas.fields import TextParameter
from stitchwork.errors import InputTooLargeError, MalformedInputError


class InMemoryParser(MultiPartParser):
    """Starlette's parser without temporary files: raw inputs are never written to a disk."""

    spool_max_size = 1 << 40


def close_parts(parser: MultiPartParser) -> None:
    """Close the file of every part that was begun.

    The form lists only parts that are complete, so the parser's private list is needed.
    """
    for file in parser._files_to_close_on_error:
        file.close()


async def parse(headers: Headers, data: bytes, limits: RequestLimits) -> dict[str, Any]:
    """Parse a multipart/form-data body.

    Returns:
        The text parts by name, and the contents of all file parts under `items`.

    Raises:
        MalformedInputError: If the bytes are not such a form, or its end is missing.
        InputTooLargeError: If it has more than `max_anchors` parts of either kind.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    try:
        parser = InMemoryParser(
            headers,
            stream(),
            max_files=limits.max_anchors,
            max_fields=limits.max_anchors,
            max_part_size=limits.max_body_bytes,
        )
        if not data.rstrip().endswith(b"--"):
            raise MalformedInputError(
                "expected multipart/form-data: the closing boundary is missing, the body was cut"
            )
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        if "Too many" in str(error):
            raise InputTooLargeError(
                f"expected at most {limits.max_anchors} parts (max_anchors) in multipart/form-data"
            ) from error
        raise MalformedInputError(f"expected multipart/form-data: {error}") from error
    parts = form.multi_items()
    files = [await value.read() for _, value in parts if isinstance(value, UploadFile)]
    close_parts(parser)
    payload: dict[str, Any] = {"items": files} if files else {}
    for name, value in parts:
        if isinstance(value, str):
            payload.setdefault(name, TextParameter(value))
    return payload
