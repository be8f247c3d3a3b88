"""Everything that can go wrong, as one tree.

Errors say what was expected, what came, and where. They know nothing of HTTP:
`api/problem_details.py` turns each class into a status.

    StitchworkError
    ├── InvalidInputError              a value means nothing here: wrong width, NaN, unknown bridge
    │   ├── MalformedInputError        the bytes cannot be parsed at all
    │   ├── InputTooLargeError         more rows, bytes or pixels than are taken
    │   ├── SlowRequestError               a body that does not arrive in time
    │   └── UnsupportedFormatError     a media type or file format that is not spoken here
    ├── AuthenticationError                     no key, or one that is unknown, removed or expired
    ├── InsufficientScopeError                a key that does not open this
    ├── UnknownResourceError           no such anchor set, space or head
    ├── Conflict                  the request and what is registered cannot both hold
    │   ├── AnchorSetMismatchError     two spaces that do not share an anchor set
    │   ├── NotReadyError              registered, but still being prepared, or its preparation
    failed
    │   ├── ResourceInUseError            something registered depends on it
    │   └── VersionMismatchError       the caller's If-Match is not the version that stands
    ├── QueueFullError                 no room for more work now
    ├── RateLimitError                a key has sent as much as it may for now
    ├── Unavailable               a part of the service cannot be reached
    │   ├── RegistryUnavailableError
    │   ├── QueueUnavailableError
    │   ├── NoWorkerError              no live worker takes this work
    │   └── JobFailedError            a worker took the work and could not finish it
    ├── DeadlineExceededError          the answer did not come in time
    ├── ClientDisconnectedError                the client hung up; nobody is told
    └── CorruptDataError              stored bytes that fail their checksum; never shown to a client
"""


class StitchworkError(Exception):
    """The root of the tree.

    Attributes:
        code: Stable kebab-case name of the condition.
        message: One sentence for a person: what was expected, what came.
        pointer: JSON pointer to the offending value, where one value is to blame.
        retry_after: Seconds after which trying again makes sense, where it does.
    """

    code = "internal"
    retry_after: float | None = None

    def __init__(
        self, message: str, *, pointer: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        if code is not None:
            self.code = code


class InvalidInputError(StitchworkError):
    """A value that means nothing here."""

    code = "invalid-input"


class MalformedInputError(InvalidInputError):
    """Bytes that cannot be parsed."""

    code = "malformed-input"


class InputTooLargeError(InvalidInputError):
    """More than is taken in one request."""

    code = "input-too-large"


class SlowRequestError(InvalidInputError):
    """A body that does not arrive in time."""

    code = "slow-request"


class UnsupportedFormatError(InvalidInputError):
    """A format that is not spoken here."""

    code = "unsupported-format"


class AuthenticationError(StitchworkError):
    """No key that is known."""

    code = "unauthenticated"


class InsufficientScopeError(StitchworkError):
    """A key that does not open this."""

    code = "insufficient-scope"


class UnknownResourceError(StitchworkError):
    """No such anchor set, space or head."""

    code = "unknown-resource"


class ConflictError(StitchworkError):
    """The request contradicts what is registered."""

    code = "conflict"


class AnchorSetMismatchError(ConflictError):
    """Two spaces that do not share an anchor set."""

    code = "anchor-set-mismatch"


class NotReadyError(ConflictError):
    """Registered, but not usable yet."""

    code = "not-ready"
    retry_after = 1.0


class ResourceInUseError(ConflictError):
    """Something registered depends on it."""

    code = "resource-in-use"


class VersionMismatchError(ConflictError):
    """The version that stands is not the one the caller named."""

    code = "version-mismatch"


class QueueFullError(StitchworkError):
    """No room for more work now."""

    code = "queue-full"
    retry_after = 1.0


class RateLimitError(StitchworkError):
    """A key has sent as much as it may for now."""

    code = "rate-limit-exceeded"
    retry_after = 1.0


class UnavailableError(StitchworkError):
    """A part of the service cannot be reached."""

    code = "unavailable"
    retry_after = 2.0


class RegistryUnavailableError(UnavailableError):
    """The registry server cannot be reached, or would not promise a write."""

    code = "registry-unavailable"


class QueueUnavailableError(UnavailableError):
    """The queue server cannot be reached."""

    code = "queue-unavailable"


class NoWorkerError(UnavailableError):
    """No live worker takes this work."""

    code = "no-worker"
    retry_after = 5.0


class JobFailedError(UnavailableError):
    """A worker took the work and could not finish it."""

    code = "job-failed"


class DeadlineExceededError(StitchworkError):
    """The answer did not come in time."""

    code = "deadline-exceeded"


class ClientDisconnectedError(StitchworkError):
    """The client hung up before its answer."""

    code = "client-disconnected"


class CorruptDataError(StitchworkError):
    """Stored bytes that fail their checksum."""

    code = "corrupt-data"
