"""Errors as HTTP answers, RFC 9457; the only file with status codes of errors."""

import logging
import re
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service import errors
from service.errors import CallerLeft, InvalidInput, StitchworkError

log = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"
_NO_PLACE: Final = ("body", "query", "header", "path", "transformers", "timm")
"""Parts of a location that name no value in the request: its source, and tags of unions."""

STATUS: Final[dict[type[StitchworkError], int]] = {
    errors.MalformedInput: 400,
    errors.InputTooLarge: 413,
    errors.UnsupportedFormat: 415,
    errors.InvalidInput: 422,
    errors.UnknownResource: 404,
    errors.VersionMismatch: 412,
    errors.Conflict: 409,
    errors.QueueFull: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.StitchworkError: 500,
}


def status_of(error: StitchworkError) -> int:
    """The status of an error: that of the nearest class in the tree that has one."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def from_validation(error: ValidationError | RequestValidationError) -> InvalidInput:
    """The first thing a model found wrong, as one of our own errors.

    Where a field was refused by one of our own errors, its class, code and pointer survive.
    """
    first = error.errors()[0]
    told = first.get("ctx", {})
    place = [str(part) for part in first["loc"] if part not in _NO_PLACE]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place)
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    message = first["msg"].removeprefix("Value error, ") + rest
    if isinstance(told.get("kind"), type):
        kind: type[InvalidInput] = told["kind"]
        return kind(message, pointer=pointer + told["pointer"], code=told["code"])
    named = f"{'.'.join(place)}: {message}" if place else message
    return InvalidInput(named, pointer=pointer)


def refusal(error: InvalidInput) -> PydanticCustomError:
    """One of our own errors in the form in which a model collects it, under the right place."""
    told = {"kind": type(error), "pointer": error.pointer or "", "code": error.code}
    return PydanticCustomError("refused", "{message}", {"message": error.message, **told})


def problem(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    pointer: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """One problem+json answer."""
    body: dict[str, Any] = {
        "type": f"urn:stitchwork:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if pointer is not None:
        body["pointer"] = pointer
    return Response(orjson.dumps(body), status, headers, PROBLEM)


def install(app: FastAPI) -> None:
    """Make every error of this app a problem+json answer."""

    @app.exception_handler(CallerLeft)
    async def _nobody(request: Request, error: CallerLeft) -> Response:
        # Only the log reads it; the number is the one that web servers use for this.
        return Response(status_code=499)

    @app.exception_handler(StitchworkError)
    async def _known(request: Request, error: StitchworkError) -> Response:
        status = status_of(error)
        if status == 500:
            log.error("an internal error reached a client", exc_info=error)
        headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.0f}"}
        return problem(
            status,
            error.code,
            error.message,
            _id(request),
            pointer=error.pointer,
            headers=headers,
        )

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return await _known(request, from_validation(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return problem(error.status_code, code, str(error.detail), _id(request), headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of every route of this path; the router itself names only those of the first."""
    found: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\?\{[^}]*\}", "[^/]+", re.escape(template)), request.url.path):
            found |= {method.upper() for method in operations}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))
