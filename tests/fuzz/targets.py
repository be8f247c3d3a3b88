"""Fuzz targets: each parser of untrusted bytes.

A target takes any bytes. It returns if they were parsed, or refused with an expected error; any
other exception is a failure.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
from pydantic import BaseModel
from starlette.requests import Request

from stitchwork.api import problem_details
from stitchwork.api.content import negotiation
from stitchwork.api.schemas.head_declarations import HeadRequest
from stitchwork.api.schemas.inference_requests import (
    ClassifyRequest,
    StitchRequest,
    TranslateRequest,
)
from stitchwork.api.schemas.registration_requests import AnchorSetRequest, SpaceRequest
from stitchwork.api.schemas.report_requests import HeadEvaluationRequest
from stitchwork.errors import CorruptDataError, IncompatibleFormatError, InvalidInputError
from stitchwork.queue.messages import unpack_job, unpack_reply
from stitchwork.redis.serialization import CHECKSUM_BYTES, FRAMES_MAGIC, MAGIC, unpack
from tests.support.body_parser import BODY_PARSER
from tests.support.request_limits import LIMITS

BODIES: Final[tuple[type[BaseModel], ...]] = (
    TranslateRequest,
    HeadRequest,
    SpaceRequest,
    AnchorSetRequest,
    StitchRequest,
    HeadEvaluationRequest,
    ClassifyRequest,
)
QUERY: Final = {
    "source": "x",
    "target": "y",
    "space": "y",
    "anchor_set": "s",
    "labels": '["a", "b"]',
    "modality": "text",
}
"""Query parameters of a binary body; each route gets those that it knows."""
_loop = asyncio.new_event_loop()


def read_body(model: type[BaseModel], data: bytes, media: str, **options: Any) -> Any:
    """The body of a request as a route parses it; None if it was refused."""
    sent = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Any:
        return sent.pop() if sent else {"type": "http.disconnect"}

    # A body of JSON has all fields.
    known = () if media == negotiation.JSON else model.model_fields
    query = {name: text for name, text in QUERY.items() if name in known}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": urlencode(query).encode(),
        "headers": [(b"content-type", media.encode())],
    }
    try:
        return _loop.run_until_complete(
            negotiation.read_body(Request(scope, receive), model, BODY_PARSER, **options)
        )
    except InvalidInputError as error:
        # It must be possible to serialize the error.
        status = problem_details.status_of(error)
        assert status in (400, 413, 415, 422)
        problem_details.problem_response(
            status, error.code, error.message, "id", pointer=error.pointer
        )
        return None


def _check_rows(rows: Any) -> None:
    if rows is not None:
        assert rows.dtype == np.float32
        assert rows.ndim == 2
        assert rows.size
        assert np.isfinite(rows).all()


def npy_body(data: bytes) -> None:
    """An .npy body of `/translate`."""
    body = read_body(TranslateRequest, data, negotiation.NPY, array_field="embeddings")
    if body:
        _check_rows(body.embeddings)


def safetensors_body(data: bytes) -> None:
    """A safetensors body of `/translate` and of a head."""
    for sent in (data, _with_header_length(data)):
        body = read_body(TranslateRequest, sent, negotiation.SAFETENSORS, array_field="embeddings")
        if body:
            _check_rows(body.embeddings)
        head = read_body(HeadRequest, sent, negotiation.SAFETENSORS, array_field="weight")
        if head:
            _run_or_refuse(head.definition)


def json_body(data: bytes) -> None:
    """A JSON body, base64 rows included; the first byte selects the route."""
    if not data:
        return
    model = BODIES[data[0] % len(BODIES)]
    body = read_body(model, data[1:], negotiation.JSON, array_field="embeddings")
    if isinstance(body, TranslateRequest | ClassifyRequest):
        _check_rows(body.embeddings)
    elif isinstance(body, SpaceRequest):
        _check_rows(body.anchors)
    elif isinstance(body, HeadRequest):
        _run_or_refuse(body.definition)
    elif isinstance(body, AnchorSetRequest):
        _run_or_refuse(lambda: body.decode_items(LIMITS.max_anchors))


def raw_body(data: bytes) -> None:
    """An NDJSON or a multipart body, selected by the first byte."""
    if not data:
        return
    media = negotiation.NDJSON if data[0] % 2 else f"{negotiation.MULTIPART}; boundary=b"
    body = read_body(AnchorSetRequest, data[1:], media, accepts_raw_inputs=True)
    if body:
        _run_or_refuse(lambda: body.decode_items(LIMITS.max_anchors))


def image(data: bytes) -> None:
    """An image file: the check of its header, and decoding."""
    from stitchwork.models.encoder import MAX_PIXELS
    from stitchwork.models.image_files import decode

    def check() -> None:
        decoded = decode(data, "/items/0")
        assert decoded.mode == "RGB"
        assert 0 < decoded.width * decoded.height <= MAX_PIXELS

    _run_or_refuse(check)


def _with_header_length(data: bytes) -> bytes:
    """The bytes after the right length of their header, which mutations rarely get right."""
    header = data[8 : data.rfind(b"}") + 1]
    return len(header).to_bytes(8, "little") + header + data[8 + len(header) :]


def _with_checksum(data: bytes) -> bytes:
    """The bytes after their checksum, so that mutations reach the code behind its check."""
    return MAGIC + hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest() + data


def _with_frames_checksum(data: bytes) -> bytes:
    return FRAMES_MAGIC + hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest() + data


def store_codec(data: bytes) -> None:
    """Stored bytes, unchanged and with a valid checksum."""
    for stored in (data, _with_checksum(data), _with_checksum(_with_header_length(data))):
        try:
            unpack(stored)
        except (CorruptDataError, IncompatibleFormatError):
            continue


def queue_codec(data: bytes) -> None:
    """A job and a reply, of this format and of earlier ones, with a valid checksum."""
    for message in (_with_frames_checksum(data), _with_checksum(_with_header_length(data))):
        for read in (unpack_job, unpack_reply):
            try:
                read(message)
            except (CorruptDataError, IncompatibleFormatError):
                continue


def _run_or_refuse(work: Callable[[], Any]) -> None:
    try:
        work()
    except InvalidInputError as error:
        status = problem_details.status_of(error)
        problem_details.problem_response(
            status, error.code, error.message, "id", pointer=error.pointer
        )


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "npy": npy_body,
    "safetensors": safetensors_body,
    "json": json_body,
    "raw": raw_body,
    "image": image,
    "store": store_codec,
    "queue": queue_codec,
}
