"""Refusals of the service and failures of the connection, as errors of the one tree."""

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

MAX_RETRY_AFTER: Final = 60.0
"""A request to retry later than in so many seconds is raised at once."""
PERMANENT: Final = (ErrorCode.JOB_FAILED, ErrorCode.ENCODER_MISMATCH)
"""Codes of a 503 that the same input gets again; it may even harm another worker."""

_CODE_OF_STATUS: Final = {
    400: ErrorCode.MALFORMED_INPUT,
    404: ErrorCode.UNKNOWN_RESOURCE,
    409: ErrorCode.CONFLICT,
    412: ErrorCode.VERSION_MISMATCH,
    413: ErrorCode.INPUT_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_FORMAT,
    422: ErrorCode.INVALID_INPUT,
    429: ErrorCode.QUEUE_FULL,
    503: ErrorCode.UNAVAILABLE,
    504: ErrorCode.DEADLINE_EXCEEDED,
}
"""The code of the nearest class, where the response's own code has no class."""


class ServiceError(StitchworkError):
    """The service answered with an error.

    It is raised as a subclass of the error's own class in `stitchwork.errors` too, such as
    `QueueFullError`.

    Attributes:
        status: The HTTP status.
        code: The stable name of the condition; `unknown` for a code of another release.
        reported_code: The code as the service wrote it.
        request_id: The id of the request in the service's log.
        max_items: The largest number of items that the service would take at the moment; None if
            it did not say.
    """

    def __init__(
        self, status: int, problem: dict[str, Any], retry_after: float | None = None
    ) -> None:
        message = str(problem.get("detail", f"the service answered {status} without a reason"))
        self.reported_code = str(problem.get("code", ErrorCode.UNKNOWN))
        code = ErrorCode.parse(self.reported_code)
        super().__init__(message, pointer=problem.get("pointer"), code=code)
        self.status = status
        self.retry_after = retry_after
        self.request_id = problem.get("request_id")
        max_items = problem.get("max_items")
        self.max_items = max_items if isinstance(max_items, int) else None


def raise_for_error(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success.

    Raises:
        ServiceError: If it is an error; of the class in `stitchwork.errors` that its code names.
    """
    if response.is_success:
        return response
    try:
        problem = read_json(response)
    except MalformedInputError:
        # The page of a load balancer, such as for 502.
        problem = {}
    retry_after = response.headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isdecimal() else None
    status = response.status_code
    classes = _error_classes()
    error_class = classes.get(str(problem.get("code"))) or classes.get(
        _CODE_OF_STATUS.get(status, "")
    )
    raise (error_class or ServiceError)(status, problem, seconds)


def read_json(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response.

    Raises:
        MalformedInputError: If there is none: another program answered.
    """
    try:
        fields = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        media = response.headers.get("content-type", "nothing")
        raise MalformedInputError(f"expected a JSON object from {response.url.host}, got {media}")
    return fields


@contextmanager
def transport_errors(url: str, seconds: float) -> Iterator[None]:
    """Errors of the connection as errors of the tree.

    Raises:
        DeadlineExceededError: If there is no response within those seconds.
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
        reason = str(error) or type(error).__name__
        raise UnavailableError(
            f"the connection to {url} was cut: {reason}", code=ErrorCode.CONNECTION_CUT
        ) from error


def is_transient(error: BaseException, *, repeatable: bool) -> bool:
    """Whether sending the request again may succeed, and does no harm.

    Args:
        error: The error of the request.
        repeatable: Whether it may be sent again although it may have been served.
    """
    if isinstance(error, ServiceError):
        # A 503 may be the answer to a write that was made, but not confirmed.
        if error.max_items:
            # A smaller request is taken at once.
            return False
        is_refusal = error.status == 429 or (error.status == 503 and repeatable)
        is_soon = (error.retry_after or 0) <= MAX_RETRY_AFTER
        return is_refusal and is_soon and error.code not in PERMANENT
    code = error.code if isinstance(error, UnavailableError) else ""
    return code == ErrorCode.UNREACHABLE or (code == ErrorCode.CONNECTION_CUT and repeatable)


@cache
def _error_classes() -> dict[str, type[ServiceError]]:
    """By code, a subclass of `ServiceError` and of each class of the tree."""
    return {
        base.code: type(base.__name__, (ServiceError, base), {"__doc__": base.__doc__})
        for base in errors.error_classes()
        if base is not StitchworkError
    }
