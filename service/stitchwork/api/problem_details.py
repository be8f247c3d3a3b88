"""Errors as HTTP responses by RFC 9457; the only file that maps errors to status codes.

Paths of another service's protocol respond in the format that its clients expect.
"""

import logging
import math
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from stitchwork import errors
from stitchwork.api.limits import (
    GRPC_HEALTH,
    GRPC_REFLECTION,
    GRPC_REFLECTION_1,
    GRPC_SERVICE,
)
from stitchwork.api.validation_errors import from_validation
from stitchwork.errors import ClientDisconnectedError, ErrorCode, InvalidInputError, StitchworkError

log = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"

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
    """The status of an error: that of its nearest base class with one."""
    error_class = error if isinstance(error, type) else type(error)
    return next(STATUS[base] for base in error_class.__mro__ if base in STATUS)


def error_statuses() -> list[tuple[int, str]]:
    """Statuses and codes of the errors that any route may respond with."""
    internal = (ClientDisconnectedError, errors.CorruptDataError)
    return [
        (status_of(error_class), error_class.code)
        for error_class in errors.error_classes()
        if error_class not in internal
    ]


@contextmanager
def replace_pointer(old: str, new: str) -> Generator[None, None, None]:
    """A context that replaces the start of an error's pointer.

    For requests in which a value has another name than in the function that raises.

    Args:
        old: Start of the pointer.
        new: Its replacement.
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
    """One error, independent of the format of the response."""

    status: int
    code: str
    detail: str
    request_id: str
    pointer: str | None = None
    max_items: int | None = None


ErrorBody = tuple[int, dict[str, Any], str]
"""Status, body and media type of a response."""


def _rfc9457(problem: Problem) -> ErrorBody:
    body: dict[str, Any] = {
        "type": f"urn:stitchwork:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": problem.request_id,
    }
    if problem.pointer is not None:
        body["pointer"] = problem.pointer
    if problem.max_items is not None:
        body["max_items"] = problem.max_items
    return problem.status, body, PROBLEM


HTTP_CODES: Final = {404: ErrorCode.UNKNOWN_PATH, 405: ErrorCode.METHOD_NOT_ALLOWED}
"""Codes of the errors that the framework raises, by status."""
OPENAI_CODES: Final[dict[str | int, str]] = {
    ErrorCode.UNKNOWN_RESOURCE: "model_not_found",
    ErrorCode.TOO_MANY_TOKENS: "context_length_exceeded",
    401: "invalid_api_key",
    429: "rate_limit_exceeded",
}
"""OpenAI's codes, by our code or by the status; all other codes are our own."""
OPENAI_STATUS: Final[dict[str | int, int]] = {
    ErrorCode.NOT_READY: 503,
    409: 400,
    413: 400,
    415: 400,
    422: 400,
}
"""OpenAI responds to every bad request with 400. Its clients retry 409 and 503, which only helps
with `not-ready`."""


def _openai(problem: Problem) -> ErrorBody:
    status = OPENAI_STATUS.get(problem.code) or OPENAI_STATUS.get(problem.status, problem.status)
    code = OPENAI_CODES.get(problem.code) or OPENAI_CODES.get(problem.status, problem.code)
    param = None
    if problem.pointer:
        first, *rest = problem.pointer.removeprefix("/").split("/")
        param = first + "".join(f"[{part}]" for part in rest)
    error_type = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": problem.detail,
        "type": "requests" if status == 429 else error_type,
        "param": "model" if code == "model_not_found" else param,
        "code": code,
    }
    return status, {"error": error}, "application/json"


def _inference_protocol(problem: Problem) -> ErrorBody:
    place = f" (at {problem.pointer})" if problem.pointer else ""
    return problem.status, {"error": problem.detail + place}, "application/json"


def _text_embeddings_inference(problem: Problem) -> ErrorBody:
    status, body, media = _inference_protocol(problem)
    kind = "Backend" if status >= 500 else "Overloaded" if status == 429 else "Validation"
    return status, {**body, "error_type": kind}, media


FORMATS: Final[dict[str, Callable[[Problem], ErrorBody]]] = {
    "v1": _openai,
    "v2": _inference_protocol,
    "tei": _text_embeddings_inference,
    **dict.fromkeys(
        (GRPC_SERVICE, GRPC_HEALTH, GRPC_REFLECTION, GRPC_REFLECTION_1), _inference_protocol
    ),
}
"""Format of errors by the first segment of the path; the default is problem+json."""
MAX_SEGMENT: Final = 48
"""Characters of a path in which the first segment of a format ends."""


def has_own_format(path: str) -> bool:
    """Whether a path is of the service's own API, not of another service's protocol."""
    return _format_of(path) is _rfc9457


def _format_of(path: str) -> Callable[[Problem], ErrorBody]:
    root, _, first = path[:MAX_SEGMENT].partition("/")
    return _rfc9457 if root else FORMATS.get(first.partition("/")[0], _rfc9457)


def problem_response(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    path: str = "",
    pointer: str | None = None,
    max_items: int | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A response with one error, in the format of this path."""
    problem = Problem(status, code, detail, request_id, pointer, max_items)
    status, body, media = _format_of(path)(problem)
    return Response(orjson.dumps(body), status, headers, media)


def error_response(
    error: StitchworkError,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> Response:
    """A response with a `StitchworkError`, in the format of this path."""
    status = status_of(error)
    if status == 500:
        log.error("request failed", exc_info=error)
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["Retry-After"] = f"{math.ceil(error.retry_after)}"
    return problem_response(
        status,
        error.code,
        error.message,
        request_id,
        path=path,
        pointer=error.pointer,
        max_items=error.max_items if isinstance(error, errors.QueueFullError) else None,
        headers=all_headers,
    )


def failure_response(
    error: Exception, scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """The response to a request that failed, whose code is stored for its log record.

    Args:
        error: What was raised; its traceback is removed.
        scope: The request's.
        headers: Further headers.
    """
    try:
        return _failure_response(error, scope, headers)
    finally:
        _remove_tracebacks(error)


def _failure_response(
    error: Exception, scope: Scope, headers: Mapping[str, str] | None
) -> Response:
    request_id, path = scope["state"]["request_id"], scope["path"]
    match error:
        case ClientDisconnect() | ClientDisconnectedError():
            # Nobody receives it; the log has the status that nginx uses for this.
            record_code(scope, ClientDisconnectedError.code)
            return Response(status_code=499)
        case RequestValidationError():
            error = from_validation(error)
    if isinstance(error, StitchworkError):
        record_code(scope, error.code)
        return error_response(error, request_id, headers, path=path)
    log.error("request failed", exc_info=error)
    record_code(scope, ErrorCode.INTERNAL)
    return problem_response(
        500,
        ErrorCode.INTERNAL,
        "the request failed because of an internal error; the log has the details",
        request_id,
        path=path,
    )


def _remove_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of an error, and of those that led to it.

    A frame that awaits a task holds the task, and that the error, whose traceback holds the frame:
    the request's body, which those frames hold too, would stay until garbage is collected.
    """
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            chain += (link.__cause__, link.__context__)


def install(app: FastAPI) -> None:
    """Handle every error of this app with a response in the format of its path."""

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(StitchworkError)
    @app.exception_handler(RequestValidationError)
    async def _failed(request: Request, error: Exception) -> Response:
        return failure_response(error, request.scope)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        code = HTTP_CODES.get(error.status_code, ErrorCode.BAD_REQUEST)
        record_code(request.scope, code)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return problem_response(
            error.status_code,
            code,
            str(error.detail),
            _request_id(request),
            path=request.url.path,
            headers=headers,
        )


def record_code(scope: Scope, code: str) -> None:
    """Store an error's code in the request's state, for its log record and metrics."""
    scope.setdefault("state", {})["code"] = code


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of a path; Starlette lists those of the first route only."""
    methods: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\?\{[^}]*\}", "[^/]+", re.escape(template)), request.url.path):
            methods |= {method.upper() for method in operations}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))
