"""Descriptions of servers that cannot be used or refuse a command, without secrets."""

import errno
import ssl
from collections.abc import Iterator
from typing import Final

from redis.exceptions import AuthenticationError, BusyLoadingError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import MasterNotFoundError

from stitchwork.errors import UnavailableError
from stitchwork.redis import urls
from stitchwork.redis.cluster import MissingOwnerError, refusal_predicate

_CLOSED: Final = (
    *(ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError),
    *(ConnectionResetError, BrokenPipeError),
)
"""Raised over TLS if the other side closed the connection. In TLS 1.3 a server refuses a client's
certificate only after the handshake, and its reason is often lost with the connection."""
_NO_FILE: Final = (errno.ENOENT, errno.EACCES)
MAX_REFUSAL_CHARS: Final = 300


def unavailable_error(
    error: RedisError, error_class: type[UnavailableError], url: str, name: str
) -> UnavailableError:
    """Our error for one of redis-py's, with the server's own words and without secrets.

    Args:
        error: The failure to connect or to get a reply, or the server's refusal.
        error_class: The error of this server.
        url: The server's URL.
        name: What the server is called in messages.
    """
    if isinstance(error, (RedisConnectionError, RedisTimeoutError)):
        return error_class(f"{name} {describe_failure(error, url)}")
    if isinstance(error, ReadOnlyError):
        return error_class(f"{name} has become a read-only replica")
    if predicate := refusal_predicate(error, url):
        return error_class(f"{name} {predicate}")
    return error_class(f"{name} refused a command: {describe_refusal(error)}")


def server_name(error_class: type[UnavailableError]) -> str:
    """What a server is called in messages, by the error that says that it is unavailable."""
    return error_class.__name__.removesuffix("UnavailableError").lower() + " server"


def describe_failure(error: RedisError, url: str) -> str:
    """A predicate for the server that could not be used, such as "cannot be reached"; no secrets.

    Args:
        error: The failure to connect, or to get a reply.
        url: The server's URL.
    """
    predicate = _failure_predicate(error, url)
    notes = [note for cause in _causes(error) for note in getattr(cause, "__notes__", ())]
    return f"{predicate} ({notes[0]})" if notes else predicate


def _failure_predicate(error: RedisError, url: str) -> str:
    if isinstance(error, MissingOwnerError):
        return str(error)
    if isinstance(error, AuthenticationError):
        return "refused the user name or the password"
    if isinstance(error, MasterNotFoundError):
        return "has no master that its sentinels know to be up"
    for cause in _causes(error):
        if isinstance(cause, BusyLoadingError) or "max number of clients" in str(cause):
            return f"refused the connection: {describe_refusal(cause)}"
        if isinstance(cause, ReadOnlyError):
            return "has become a read-only replica"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted: {cause.verify_message}"
        if isinstance(cause, _CLOSED) and urls.is_tls(url):
            return "ended the TLS connection: it is stopping, or wants a client's certificate"
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or "unknown").lower().replace("_", " ")
            return f"cannot be reached over TLS, check the certificates: {reason}"
        if isinstance(cause, OSError) and cause.errno in _NO_FILE and urls.is_tls(url):
            return "cannot be reached over TLS: a certificate or key file cannot be read"
    return "cannot be reached or does not answer"


def describe_refusal(error: BaseException) -> str:
    """The server's own words about a command that it refused, without the command's arguments."""
    # Some servers repeat the arguments of a command that they do not know.
    words = str(error).partition(", with args beginning with")[0]
    return " ".join(words.split())[:MAX_REFUSAL_CHARS] or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
