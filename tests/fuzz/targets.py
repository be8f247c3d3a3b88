"""What is fuzzed: each parser of foreign bytes, and what it may answer.

A target takes any bytes. It returns if they were understood or refused as they should be; whatever
else it raises is a finding.
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
from stitchwork.api.schemas.inference_requests import (
    ClassifyRequest,
    StitchRequest,
    TranslateRequest,
)
from stitchwork.api.schemas.registration_requests import AnchorSetRequest, HeadRequest, SpaceRequest
from stitchwork.api.schemas.report_requests import HeadEvaluationRequest
from stitchwork.errors import CorruptDataError, InvalidInputError
from stitchwork.queue.messages import unpack_job, unpack_reply
from stitchwork.redis.serialization import CHECKSUM_BYTES, MAGIC, unpack
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
"""What stands beside a binary body, of the fields that its route knows."""
_loop = asyncio.new_event_loop()


def read_body(model: type[BaseModel], data: bytes, media: str, **how: Any) -> Any:
    """The body of a request as a route reads it; None if it was refused."""
    sent = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Any:
        return sent.pop() if sent else {"type": "http.disconnect"}

    told = {name: text for name, text in QUERY.items() if name in model.model_fields}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": urlencode(told).encode(),
        "headers": [(b"content-type", media.encode())],
    }
    try:
        return _loop.run_until_complete(
            negotiation.read_body(Request(scope, receive), model, LIMITS, **how)
        )
    except InvalidInputError as error:
        # What is said of it must be sayable in JSON.
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
    asked = read_body(TranslateRequest, data, negotiation.NPY, main="embeddings")
    if asked:
        _check_rows(asked.embeddings)


def safetensors_body(data: bytes) -> None:
    """A safetensors body of `/translate`, and the same as that of a head."""
    for sent in (data, _measured(data)):
        asked = read_body(TranslateRequest, sent, negotiation.SAFETENSORS, main="embeddings")
        if asked:
            _check_rows(asked.embeddings)
        head = read_body(HeadRequest, sent, negotiation.SAFETENSORS, main="weight")
        if head:
            _refusable(head.weights_classifier)


def json_body(data: bytes) -> None:
    """A JSON body, base64 rows included; the first byte says of which route."""
    if not data:
        return
    model = BODIES[data[0] % len(BODIES)]
    asked = read_body(model, data[1:], negotiation.JSON, main="embeddings")
    if isinstance(asked, TranslateRequest | ClassifyRequest):
        _check_rows(asked.embeddings)
    elif isinstance(asked, SpaceRequest):
        _check_rows(asked.anchors)
    elif isinstance(asked, HeadRequest):
        _refusable(asked.weights_classifier)
    elif isinstance(asked, AnchorSetRequest):
        _refusable(lambda: asked.decode_items(LIMITS.max_anchors))


def raw_body(data: bytes) -> None:
    """Lines of JSON, or a multipart body, by the first byte."""
    if not data:
        return
    media = negotiation.NDJSON if data[0] % 2 else f"{negotiation.MULTIPART}; boundary=b"
    asked = read_body(AnchorSetRequest, data[1:], media)
    if asked:
        _refusable(lambda: asked.decode_items(LIMITS.max_anchors))


def image(data: bytes) -> None:
    """The header check of an image file, and its decoding."""
    from stitchwork.models.encoder import MAX_PIXELS
    from stitchwork.models.timm_encoder import decode

    def check() -> None:
        found = decode(data, "/items/0")
        assert found.mode == "RGB"
        assert 0 < found.width * found.height <= MAX_PIXELS

    _refusable(check)


def _measured(data: bytes) -> bytes:
    """The bytes with the right length of a header in front, which mutations seldom hit."""
    header = data[8 : data.rfind(b"}") + 1]
    return len(header).to_bytes(8, "little") + header + data[8 + len(header) :]


def _sealed(data: bytes) -> bytes:
    """The bytes with a good checksum, so that what is behind it is reached."""
    return MAGIC + hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest() + data


def store_codec(data: bytes) -> None:
    """Stored bytes, as they are and with a good checksum."""
    for stored in (data, _sealed(data), _sealed(_measured(data))):
        try:
            unpack(stored)
        except CorruptDataError:
            continue


def queue_codec(data: bytes) -> None:
    """A job and a reply, with a good checksum."""
    for read in (unpack_job, unpack_reply):
        try:
            read(_sealed(_measured(data)))
        except CorruptDataError:
            continue


def _refusable(work: Callable[[], Any]) -> None:
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
