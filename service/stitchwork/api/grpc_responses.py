"""The responses of the gRPC API, whose errors are those of HTTP."""

from dataclasses import dataclass
from typing import Any, Final

import grpc
import orjson

CODES: Final[dict[int, grpc.StatusCode]] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes by the status of the same error by HTTP."""
CODE_METADATA: Final = "stitchwork-code"
MAX_DETAIL_CHARS: Final = 2000
"""Characters of an error's text, which travels in headers."""


@dataclass(frozen=True, slots=True)
class CallResponse:
    """The response to one message.

    Attributes:
        status: Status of HTTP.
        code: Code of the error, if it is one.
        metadata: Its headers.
        body: The message, or the error as JSON.
    """

    status: int
    code: str
    metadata: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def text(self) -> str:
        """The text of an error."""
        text = str(orjson.loads(self.body)["error"]) if self.body else "the call was cancelled"
        return text[:MAX_DETAIL_CHARS]

    @property
    def error_metadata(self) -> tuple[tuple[str, str], ...]:
        """The trailing metadata of an error."""
        return (*self.metadata, (CODE_METADATA, self.code))

    async def abort(self, context: Any) -> None:
        """End a call with this error."""
        status = CODES.get(self.status, grpc.StatusCode.UNKNOWN)
        await context.abort(status, self.text, self.error_metadata)
