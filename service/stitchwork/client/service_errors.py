"""What the service or the way to it refuses, as errors of the one tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import httpx
import orjson

from stitchwork import errors
from stitchwork.errors import (
    DeadlineExceededError,
    ErrorCode,
    MalformedInputError,
    StitchworkError,
    UnavailableError,
)

LONGEST_PAUSE: Final = 60.0
"""Who is told to come back later than in so many seconds hears of it instead of waiting."""
HOPELESS: Final = (ErrorCode.JOB_FAILED, ErrorCode.ENCODER_MISMATCH)
"""Codes of a 503 that the same input meets again; it may even harm another worker."""

_BY_STATUS: Final = {
    400: "malformed-input",
    404: "unknown-resource",
    409: "conflict",
    412: "version-mismatch",
    413: "input-too-large",
    415: "unsupported-format",
    422: "invalid-input",
    429: "queue-full",
    503: "unavailable",
    504: "deadline-exceeded",
}
"""The nearest class of the tree, by its code, where the answer's own code is of no class."""


class ServiceError(StitchworkError):
    """The service answered with a problem.

    What is raised is of the problem's own class in `stitchwork.errors` too, such as
    `QueueFullError`.

    Attributes:
        status: The HTTP status.
        code: The stable name of the condition; `unknown` for a code of another release.
        reported_code: The code as the service wrote it.
        request_id: What the service calls the request in its log.
    """

    def __init__(self, status: int, told: dict[str, Any], retry_after: float | None = None) -> None:
        message = str(told.get("detail", f"the service answered {status} and gave no reason"))
        self.reported_code = str(told.get("code", ErrorCode.UNKNOWN))
        code = ErrorCode.parse(self.reported_code)
        super().__init__(message, pointer=told.get("pointer"), code=code)
        self.status = status
        self.retry_after = retry_after
        self.request_id = told.get("request_id")


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is not an error.

    Raises:
        ServiceError: If it is; of the class in `stitchwork.errors` that its code names.
    """
    if answer.is_success:
        return answer
    try:
        told = json_of(answer)
    except MalformedInputError:
        # A balancer's own page, such as for 502.
        told = {}
    later = answer.headers.get("retry-after", "")
    seconds = float(later) if later.isdecimal() else None
    status = answer.status_code
    kinds = _kinds()
    known = kinds.get(str(told.get("code"))) or kinds.get(_BY_STATUS.get(status, ""))
    raise (known or ServiceError)(status, told, seconds)


def json_of(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        MalformedInputError: If it is none, because somebody else answered.
    """
    try:
        told = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        media = answer.headers.get("content-type", "nothing")
        raise MalformedInputError(f"expected a JSON object from {answer.url.host}, got {media}")
    return told


@contextmanager
def transport(url: str, seconds: float) -> Iterator[None]:
    """Errors of the connection as errors of the tree.

    Raises:
        DeadlineExceededError: If no answer came within those seconds.
        UnavailableError: If the service cannot be reached, or the connection was cut.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        raise DeadlineExceededError(f"no answer from {url} within {seconds:g} seconds") from error
    except httpx.ConnectError as error:
        raise UnavailableError(
            f"{url} cannot be reached: {error}", code=ErrorCode.UNREACHABLE
        ) from error
    except httpx.TransportError as error:
        told = str(error) or type(error).__name__
        raise UnavailableError(
            f"the connection to {url} was cut: {told}", code=ErrorCode.CONNECTION_CUT
        ) from error


def passes(error: BaseException, *, repeatable: bool) -> bool:
    """Whether sending the same once more may help, and does no harm.

    Args:
        error: What came of the request.
        repeatable: Whether it may be sent again although it may have been served.
    """
    if isinstance(error, ServiceError):
        # A 503 may come of a write that was made, and not promised.
        refused = error.status == 429 or (error.status == 503 and repeatable)
        soon = (error.retry_after or 0) <= LONGEST_PAUSE
        return refused and soon and error.code not in HOPELESS
    code = error.code if isinstance(error, UnavailableError) else ""
    return code == ErrorCode.UNREACHABLE or (code == ErrorCode.CONNECTION_CUT and repeatable)


@cache
def _kinds() -> dict[str, type[ServiceError]]:
    """By its code, every class of the tree as a problem that the service answered with."""
    found: dict[str, type[ServiceError]] = {}
    waiting = StitchworkError.__subclasses__()
    while waiting:
        kind = waiting.pop()
        if kind.__module__ == errors.__name__:
            named = {"__doc__": kind.__doc__}
            found[kind.code] = type(kind.__name__, (ServiceError, kind), named)
            waiting.extend(kind.__subclasses__())
    return found
