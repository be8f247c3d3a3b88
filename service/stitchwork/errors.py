"""The exceptions of the package, as one tree, and their codes.

A message says what was expected, what came, and where. This module knows nothing of HTTP:
`api/problem_details.py` maps each class to a status.

    StitchworkError
    ├── InvalidInputError              an invalid value: wrong width, NaN, unknown bridge
    │   ├── MalformedInputError        bytes that cannot be parsed
    │   ├── InputTooLargeError         more rows, bytes or pixels than one request may hold
    │   ├── SlowRequestError           a body that does not arrive in time
    │   └── UnsupportedFormatError     a media type or file format that is not supported
    ├── AuthenticationError            no API key, or one that is unknown, removed or expired
    ├── InsufficientScopeError         an API key without the scope that the request needs
    ├── UnknownResourceError           no such anchor set, space or head
    ├── ConflictError                  the request contradicts what is registered
    │   ├── AnchorSetMismatchError     two spaces that do not share an anchor set
    │   ├── NotReadyError              its registration is pending, or changed meanwhile
    │   ├── IncompatibleFormatError    stored in a form that this release cannot read
    │   ├── ResourceInUseError         another resource depends on it
    │   └── VersionMismatchError       the current version is not the one that the caller named
    ├── QueueFullError                 no room for more work at the moment
    ├── RateLimitError                 an API key has used up its rate
    ├── UnavailableError               a part of the service is unavailable
    │   ├── RegistryUnavailableError
    │   ├── QueueUnavailableError
    │   ├── NoWorkerError              no live worker accepts this work
    │   └── JobFailedError             a worker accepted the work and could not finish it
    ├── DeadlineExceededError          no result before the deadline
    ├── ClientDisconnectedError        the client closed the connection; nobody gets a response
    └── CorruptDataError               stored bytes that fail their checksum; never sent to a client
"""

from enum import StrEnum
from typing import Any, Final


class ErrorCode(StrEnum):
    """The stable names of conditions, in error bodies, logs and metrics.

    The first ones are the codes of the classes, the others name one condition of a class.
    """

    INTERNAL = "internal"
    INVALID_INPUT = "invalid-input"
    MALFORMED_INPUT = "malformed-input"
    INPUT_TOO_LARGE = "input-too-large"
    SLOW_REQUEST = "slow-request"
    UNSUPPORTED_FORMAT = "unsupported-format"
    UNAUTHENTICATED = "unauthenticated"
    INSUFFICIENT_SCOPE = "insufficient-scope"
    UNKNOWN_RESOURCE = "unknown-resource"
    CONFLICT = "conflict"
    ANCHOR_SET_MISMATCH = "anchor-set-mismatch"
    NOT_READY = "not-ready"
    INCOMPATIBLE_FORMAT = "incompatible-format"
    RESOURCE_IN_USE = "resource-in-use"
    VERSION_MISMATCH = "version-mismatch"
    QUEUE_FULL = "queue-full"
    RATE_LIMIT_EXCEEDED = "rate-limit-exceeded"
    UNAVAILABLE = "unavailable"
    REGISTRY_UNAVAILABLE = "registry-unavailable"
    QUEUE_UNAVAILABLE = "queue-unavailable"
    NO_WORKER = "no-worker"
    JOB_FAILED = "job-failed"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    CLIENT_DISCONNECTED = "client-disconnected"
    CORRUPT_DATA = "corrupt-data"

    # Values in a request
    DEGENERATE_ANCHORS = "degenerate-anchors"
    DUPLICATE_KEY = "duplicate-key"
    INVALID_ID = "invalid-id"
    NESTING_TOO_DEEP = "nesting-too-deep"
    NO_ENCODER = "no-encoder"
    RAGGED_ROWS = "ragged-rows"
    TOKEN_IDS = "token-ids"  # noqa: S105
    TOO_FEW_LABELS = "too-few-labels"
    TOO_MANY_SPACES = "too-many-spaces"
    UNKNOWN_LABEL = "unknown-label"
    WRONG_WIDTH = "wrong-width"

    # Raw inputs
    OUT_OF_MEMORY = "out-of-memory"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_MANY_SCANS = "too-many-scans"
    TOO_MANY_TOKENS = "too-many-tokens"
    UNKNOWN_PROMPT = "unknown-prompt"
    URL_NOT_ALLOWED = "url-not-allowed"
    URL_UNAVAILABLE = "url-unavailable"

    # Models and registrations
    ANCHOR_SET_IMMUTABLE = "anchor-set-immutable"
    ENCODER_MISMATCH = "encoder-mismatch"
    LOAD_FAILED = "load-failed"
    MODEL_NOT_ALLOWED = "model-not-allowed"
    PATH_NOT_ALLOWED = "path-not-allowed"
    REGISTRATION_FAILED = "registration-failed"

    # Connections and HTTP
    BAD_REQUEST = "bad-request"
    HEADERS_TOO_LARGE = "headers-too-large"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    QUEUE_BYTES_FULL = "queue-bytes-full"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    UNKNOWN_PATH = "unknown-path"

    # Raised by the client alone
    CONNECTION_CUT = "connection-cut"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"

    @classmethod
    def parse(cls, text: object) -> "ErrorCode":
        """The member with this value, or `UNKNOWN` for a code of another release."""
        try:
            return cls(str(text))
        except ValueError:
            return cls.UNKNOWN


UNSERVED_CODES: Final = frozenset(
    {
        ErrorCode.CLIENT_DISCONNECTED,
        ErrorCode.CONNECTION_CUT,
        ErrorCode.CORRUPT_DATA,
        ErrorCode.UNKNOWN,
        ErrorCode.UNREACHABLE,
    }
)
"""Codes that no response carries."""


class StitchworkError(Exception):
    """The root of the tree.

    Attributes:
        code: Stable kebab-case name of the condition.
        message: One sentence for a person: what was expected, what came.
        pointer: JSON pointer to the offending value, where one value is to blame.
        retry_after: Seconds after which another attempt makes sense, if any does.
        partial: What has arrived of a large call of the client that failed, as a `PartialResult`
            from which the same call goes on; None if nothing has.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    retry_after: float | None = None
    partial: Any = None

    def __init__(
        self, message: str, *, pointer: str | None = None, code: ErrorCode | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        if code is not None:
            self.code = code


def error_classes() -> list[type[StitchworkError]]:
    """The classes of the tree, each after its base; not those that other modules derive."""
    classes = [StitchworkError]
    for error_class in classes:
        classes += [one for one in error_class.__subclasses__() if one.__module__ == __name__]
    return classes


class InvalidInputError(StitchworkError):
    """An invalid value."""

    code = ErrorCode.INVALID_INPUT


class MalformedInputError(InvalidInputError):
    """Bytes that cannot be parsed."""

    code = ErrorCode.MALFORMED_INPUT


class InputTooLargeError(InvalidInputError):
    """More than one request may hold."""

    code = ErrorCode.INPUT_TOO_LARGE


class SlowRequestError(InvalidInputError):
    """A body that does not arrive in time."""

    code = ErrorCode.SLOW_REQUEST


class UnsupportedFormatError(InvalidInputError):
    """A media type or file format that is not supported."""

    code = ErrorCode.UNSUPPORTED_FORMAT


class AuthenticationError(StitchworkError):
    """No API key, or one that is unknown, removed or expired."""

    code = ErrorCode.UNAUTHENTICATED


class InsufficientScopeError(StitchworkError):
    """An API key without the scope that the request needs."""

    code = ErrorCode.INSUFFICIENT_SCOPE


class UnknownResourceError(StitchworkError):
    """No such anchor set, space or head."""

    code = ErrorCode.UNKNOWN_RESOURCE


class ConflictError(StitchworkError):
    """The request contradicts what is registered."""

    code = ErrorCode.CONFLICT


class AnchorSetMismatchError(ConflictError):
    """Two spaces that do not share an anchor set."""

    code = ErrorCode.ANCHOR_SET_MISMATCH


class NotReadyError(ConflictError):
    """Registered, but not usable yet."""

    code = ErrorCode.NOT_READY
    retry_after = 1.0


class IncompatibleFormatError(ConflictError):
    """Stored by another release, in a form that this one cannot read."""

    code = ErrorCode.INCOMPATIBLE_FORMAT


class ResourceInUseError(ConflictError):
    """Another resource depends on it."""

    code = ErrorCode.RESOURCE_IN_USE


class VersionMismatchError(ConflictError):
    """The current version is not the one that the caller named."""

    code = ErrorCode.VERSION_MISMATCH


class QueueFullError(StitchworkError):
    """No room for more work at the moment.

    Attributes:
        max_items: The largest number of items that a request may have at the moment; None if that
            is not known.
        limit: Name of the limit of the queue that is reached; empty if it is another one.
    """

    code = ErrorCode.QUEUE_FULL
    retry_after = 1.0

    def __init__(
        self,
        message: str,
        *,
        pointer: str | None = None,
        code: ErrorCode | None = None,
        max_items: int | None = None,
        limit: str = "",
    ) -> None:
        super().__init__(message, pointer=pointer, code=code)
        self.max_items = max_items
        self.limit = limit


class RateLimitError(StitchworkError):
    """An API key has used up its rate."""

    code = ErrorCode.RATE_LIMIT_EXCEEDED
    retry_after = 1.0


class UnavailableError(StitchworkError):
    """A part of the service is unavailable."""

    code = ErrorCode.UNAVAILABLE
    retry_after = 2.0


class RegistryUnavailableError(UnavailableError):
    """The registry server is unavailable, or did not confirm a write."""

    code = ErrorCode.REGISTRY_UNAVAILABLE


class QueueUnavailableError(UnavailableError):
    """The queue server is unavailable."""

    code = ErrorCode.QUEUE_UNAVAILABLE


class NoWorkerError(UnavailableError):
    """No live worker accepts this work."""

    code = ErrorCode.NO_WORKER
    retry_after = 5.0


class JobFailedError(UnavailableError):
    """A worker accepted the work and could not finish it."""

    code = ErrorCode.JOB_FAILED


class DeadlineExceededError(StitchworkError):
    """No result before the deadline."""

    code = ErrorCode.DEADLINE_EXCEEDED


class ClientDisconnectedError(StitchworkError):
    """The client closed the connection before its response."""

    code = ErrorCode.CLIENT_DISCONNECTED


class CorruptDataError(StitchworkError):
    """Stored bytes that fail their checksum."""

    code = ErrorCode.CORRUPT_DATA
