"""Errors as HTTP answers, RFC 9457; the only file with status codes of errors.

Paths that speak another service's protocol answer errors in the shape its clients read.
"""

import logging
import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stitchwork import errors
from stitchwork.errors import ClientDisconnectedError, InvalidInputError, StitchworkError

log = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"
_NO_PLACE: Final = ("body", "query", "header", "path", "transformers", "timm")
"""Parts of a location that name no value in the request: its source, and tags of unions."""

STATUS: Final[dict[type[StitchworkError], int]] = {
    errors.MalformedInputError: 400,
    errors.InputTooLargeError: 413,
    errors.SlowRequestError: 408,
    errors.UnsupportedFormatError: 415,
    errors.InvalidInputError: 422,
    errors.AuthenticationError: 401,
    errors.InsufficientScopeError: 403,
    errors.UnknownResourceError: 404,
    errors.VersionMismatchError: 412,
    errors.ConflictError: 409,
    errors.QueueFullError: 429,
    errors.RateLimitError: 429,
    errors.UnavailableError: 503,
    errors.DeadlineExceededError: 504,
    errors.StitchworkError: 500,
}


def status_of(error: StitchworkError | type[StitchworkError]) -> int:
    """The status of an error: that of the nearest class in the tree that has one."""
    found = error if isinstance(error, type) else type(error)
    return next(STATUS[kind] for kind in found.__mro__ if kind in STATUS)


def error_statuses() -> list[tuple[int, str]]:
    """Statuses and codes of errors that any route may answer with."""
    tree = [StitchworkError]
    for kind in tree:
        tree += kind.__subclasses__()
    hidden = (ClientDisconnectedError, errors.CorruptDataError)
    return [(status_of(kind), kind.code) for kind in tree if kind not in hidden]


def from_validation(
    error: ValidationError | RequestValidationError, fields: Iterable[str] = ()
) -> InvalidInputError:
    """The first thing a model found wrong, as one of our own errors.

    Where a field was refused by one of our own errors, its class, code and pointer survive.

    Args:
        error: What the model found.
        fields: Those that the model has, for who named one that it has not.
    """
    first = error.errors()[0]
    told = first.get("ctx", {})
    place = [str(part) for part in first["loc"] if part not in _NO_PLACE]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place)
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    message = first["msg"].removeprefix("Value error, ") + rest
    if first["type"] == "extra_forbidden" and len(place) == 1 and fields:
        message = f"there is no such field{rest}, expected some of {', '.join(fields)}"
    if isinstance(told.get("kind"), type):
        kind: type[InvalidInputError] = told["kind"]
        return kind(message, pointer=pointer + told["pointer"], code=told["code"])
    named = f"{'.'.join(place)}: {message}" if place else message
    return InvalidInputError(named, pointer=pointer)


def field_error(error: InvalidInputError) -> PydanticCustomError:
    """One of our own errors in the form in which a model collects it, under the right place."""
    told = {"kind": type(error), "pointer": error.pointer or "", "code": error.code}
    return PydanticCustomError("refused", "{message}", {"message": error.message, **told})


@contextmanager
def replace_pointer(old: str, new: str) -> Generator[None, None, None]:
    """Point at a value by the place it has in this request, which calls it by another name.

    Args:
        old: How the pointer of an error begins.
        new: How it shall begin.
    """
    try:
        yield
    except InvalidInputError as error:
        pointer = error.pointer or ""
        if pointer.startswith(old):
            error.pointer = new + pointer.removeprefix(old)
        raise


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to say of an error, in no shape yet."""

    status: int
    code: str
    detail: str
    request_id: str
    pointer: str | None = None


Shaped = tuple[int, dict[str, Any], str]
"""Status, body and media type."""


def _rfc9457(told: Problem) -> Shaped:
    body: dict[str, Any] = {
        "type": f"urn:stitchwork:problem:{told.code}",
        "title": HTTPStatus(told.status).phrase,
        "status": told.status,
        "detail": told.detail,
        "code": told.code,
        "request_id": told.request_id,
    }
    if told.pointer is not None:
        body["pointer"] = told.pointer
    return told.status, body, PROBLEM


OPENAI_CODES: Final[dict[str | int, str]] = {
    "unknown-resource": "model_not_found",
    "too-many-tokens": "context_length_exceeded",
    401: "invalid_api_key",
    429: "rate_limit_exceeded",
}
"""What OpenAI's clients look for, by our code or by the status; other codes stay our own."""
OPENAI_STATUS: Final = {"not-ready": 503, 409: 400, 413: 400, 415: 400, 422: 400}
"""OpenAI says 400 of every bad request, and its clients send a 409 again: only one is worth it."""


def _openai(told: Problem) -> Shaped:
    status = OPENAI_STATUS.get(told.code) or OPENAI_STATUS.get(told.status, told.status)
    code = OPENAI_CODES.get(told.code) or OPENAI_CODES.get(told.status, told.code)
    param = None
    if told.pointer:
        first, *rest = told.pointer.removeprefix("/").split("/")
        param = first + "".join(f"[{part}]" for part in rest)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": told.detail,
        "type": "requests" if status == 429 else kind,
        "param": "model" if code == "model_not_found" else param,
        "code": code,
    }
    return status, {"error": error}, "application/json"


def _inference_protocol(told: Problem) -> Shaped:
    place = f" (at {told.pointer})" if told.pointer else ""
    return told.status, {"error": told.detail + place}, "application/json"


SHAPES: Final[dict[str, Callable[[Problem], Shaped]]] = {
    "/v1": _openai,
    "/v2": _inference_protocol,
}
"""The shape of errors by the first part of the path, where it is not problem+json."""


def problem_response(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    path: str = "",
    pointer: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """One error as an answer: problem+json, or what the clients of this path read."""
    shape = SHAPES.get(path[:3], _rfc9457) if path[3:4] in ("", "/") else _rfc9457
    status, body, media = shape(Problem(status, code, detail, request_id, pointer))
    return Response(orjson.dumps(body), status, headers, media)


def error_response(
    error: StitchworkError,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> Response:
    """The answer to one of our own errors, in the shape of this path."""
    status = status_of(error)
    if status == 500:
        log.error("request failed", exc_info=error)
    told = dict(headers or {})
    if error.retry_after is not None:
        told["Retry-After"] = f"{math.ceil(error.retry_after)}"
    return problem_response(
        status,
        error.code,
        error.message,
        request_id,
        path=path,
        pointer=error.pointer,
        headers=told,
    )


async def send_error(
    error: StitchworkError,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer a request with an error, before any route has seen it."""
    record_code(scope, error.code)
    request_id, path = scope["state"]["request_id"], scope["path"]
    await error_response(error, request_id, headers, path=path)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Make every error of this app an answer in the shape of its path."""

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ClientDisconnectedError)
    async def _nobody(request: Request, error: Exception) -> Response:
        # Only the log reads it; the number is the one that web servers use for this.
        record_code(request.scope, ClientDisconnectedError.code)
        return Response(status_code=499)

    @app.exception_handler(StitchworkError)
    async def _known(request: Request, error: StitchworkError) -> Response:
        record_code(request.scope, error.code)
        return error_response(error, _id(request), path=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return await _known(request, from_validation(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        record_code(request.scope, code)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        told, path = str(error.detail), request.url.path
        return problem_response(
            error.status_code, code, told, _id(request), path=path, headers=headers
        )


def record_code(scope: Scope, code: str) -> None:
    """Leave word of an error's code for whoever counts and logs the answer."""
    scope.setdefault("state", {})["code"] = code


def _allowed(request: Request) -> list[str]:
    """The methods of every route of this path; the router itself names only those of the first."""
    found: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\?\{[^}]*\}", "[^/]+", re.escape(template)), request.url.path):
            found |= {method.upper() for method in operations}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))
