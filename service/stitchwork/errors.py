"""Everything that can go wrong, as one tree.

Errors say what was expected, what came, and where. They know nothing of HTTP: `api/problem_details.py`
turns each class into a status.

    StitchworkError
    ├── InvalidInput              a value means nothing here: wrong width, NaN, unknown bridge
    │   ├── MalformedInput        the bytes cannot be parsed at all
    │   ├── InputTooLarge         more rows, bytes or pixels than are taken
    │   ├── TooSlow               a body that does not arrive in time
    │   └── UnsupportedFormat     a media type or file format that is not spoken here
    ├── NoKey                     no key, or one that is unknown, removed or expired
    ├── WrongScope                a key that does not open this
    ├── UnknownResource           no such anchor set, space or head
    ├── Conflict                  the request and what is registered cannot both hold
    │   ├── AnchorSetMismatch     two spaces that do not share an anchor set
    │   ├── NotReady              registered, but still being prepared, or its preparation failed
    │   ├── StillInUse            something registered depends on it
    │   └── VersionMismatch       the caller's If-Match is not the version that stands
    ├── QueueFull                 no room for more work now
    ├── QuotaSpent                a key has sent as much as it may for now
    ├── Unavailable               a part of the service cannot be reached
    │   ├── RegistryUnavailable
    │   ├── QueueUnavailable
    │   ├── NoWorker              no live worker takes this work
    │   └── WorkFailed            a worker took the work and could not finish it
    ├── DeadlineExceeded          the answer did not come in time
    ├── CallerLeft                the client hung up; nobody is told
    └── CorruptBytes              stored bytes that fail their checksum; never shown to a client
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


class InvalidInput(StitchworkError):
    """A value that means nothing here."""

    code = "invalid-input"


class MalformedInput(InvalidInput):
    """Bytes that cannot be parsed."""

    code = "malformed-input"


class InputTooLarge(InvalidInput):
    """More than is taken in one request."""

    code = "input-too-large"


class TooSlow(InvalidInput):
    """A body that does not arrive in time."""

    code = "too-slow"


class UnsupportedFormat(InvalidInput):
    """A format that is not spoken here."""

    code = "unsupported-format"


class NoKey(StitchworkError):
    """No key that is known."""

    code = "no-key"


class WrongScope(StitchworkError):
    """A key that does not open this."""

    code = "wrong-scope"


class UnknownResource(StitchworkError):
    """No such anchor set, space or head."""

    code = "unknown-resource"


class Conflict(StitchworkError):
    """The request contradicts what is registered."""

    code = "conflict"


class AnchorSetMismatch(Conflict):
    """Two spaces that do not share an anchor set."""

    code = "anchor-set-mismatch"


class NotReady(Conflict):
    """Registered, but not usable yet."""

    code = "not-ready"
    retry_after = 1.0


class StillInUse(Conflict):
    """Something registered depends on it."""

    code = "still-in-use"


class VersionMismatch(Conflict):
    """The version that stands is not the one the caller named."""

    code = "version-mismatch"


class QueueFull(StitchworkError):
    """No room for more work now."""

    code = "queue-full"
    retry_after = 1.0


class QuotaSpent(StitchworkError):
    """A key has sent as much as it may for now."""

    code = "quota-spent"
    retry_after = 1.0


class Unavailable(StitchworkError):
    """A part of the service cannot be reached."""

    code = "unavailable"
    retry_after = 2.0


class RegistryUnavailable(Unavailable):
    """The registry server cannot be reached, or would not promise a write."""

    code = "registry-unavailable"


class QueueUnavailable(Unavailable):
    """The queue server cannot be reached."""

    code = "queue-unavailable"


class NoWorker(Unavailable):
    """No live worker takes this work."""

    code = "no-worker"
    retry_after = 5.0


class WorkFailed(Unavailable):
    """A worker took the work and could not finish it."""

    code = "work-failed"


class DeadlineExceeded(StitchworkError):
    """The answer did not come in time."""

    code = "deadline-exceeded"


class CallerLeft(StitchworkError):
    """The client hung up before its answer."""

    code = "caller-left"


class CorruptBytes(StitchworkError):
    """Stored bytes that fail their checksum."""

    code = "corrupt-bytes"
