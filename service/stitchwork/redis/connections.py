"""Connection pools for one server or a service behind sentinels, and descriptions of failures."""

import errno
import ssl
from collections.abc import Iterator
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import AuthenticationError, BusyLoadingError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from stitchwork.errors import UnavailableError
from stitchwork.redis import urls
from stitchwork.redis.urls import SentinelUrl

_CLOSED: Final = (
    *(ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError),
    *(ConnectionResetError, BrokenPipeError),
)
"""Raised over TLS if the other side closed the connection. In TLS 1.3 a server refuses a client's
certificate only after the handshake, and its reason is often lost with the connection."""
_NO_FILE: Final = (errno.ENOENT, errno.EACCES)
MAX_REFUSAL_CHARS: Final = 300


def connect(url: str, timeout: float, *, block_seconds: float = 0.0) -> redis.Redis:
    """A client with its own pool; it connects at the first call.

    Args:
        url: Any URL that `urls.validate_url` accepts.
        timeout: Seconds that connecting may take, and a call. All sentinels together have as
            long to name the master.
        block_seconds: Seconds that a blocking command may take in addition.
    """
    sentinels = urls.parse_sentinel_url(url)
    if sentinels is None:
        return redis.Redis.from_url(url, **_limits(timeout, block_seconds))
    options = _server_options(sentinels)
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        sentinels.service,
        _sentinel_manager(sentinels, timeout),
        connection_class=_TlsConnection if urls.is_tls(url) else _PlainConnection,
        **options,
        **_limits(timeout, block_seconds),
    )
    return _SentinelClient.from_pool(pool)


def find_master(sentinels: SentinelUrl, timeout: float) -> tuple[str, int]:
    """Host and port of the master that sentinels name.

    Args:
        sentinels: The sentinels.
        timeout: Seconds that all of them together may take.

    Raises:
        MasterNotFoundError: If a sentinel answered, and none knows a master that is up.
        RedisError: The failure of one of them, if no sentinel answered.
    """
    manager = _sentinel_manager(sentinels, timeout)
    try:
        return manager.discover_master(sentinels.service)
    finally:
        for sentinel in manager.sentinels:
            sentinel.close()


def unavailable_error(
    error: RedisError, error_class: type[UnavailableError], url: str
) -> UnavailableError:
    """Our error for one of redis-py's, with the server's own words and without secrets.

    Args:
        error: The failure to connect or to get a reply, or the server's refusal.
        error_class: The error of this server.
        url: The server's URL.
    """
    name = server_name(error_class)
    if isinstance(error, (RedisConnectionError, RedisTimeoutError)):
        return error_class(f"{name} {describe_failure(error, url)}")
    if isinstance(error, ReadOnlyError):
        return error_class(f"{name} has become a read-only replica")
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


class _SentinelManager(Sentinel):
    """Sentinels that are asked in turn, beginning with the last one that knew the master."""

    _first = 0

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master.

        redis-py's own method joins the texts of all failures in one error. This one keeps the
        failure itself, so that a timeout is not tried twice and a certificate can be named; and
        it does not reorder the list, which threads share.

        Raises:
            MasterNotFoundError: If a sentinel answered, and none knows a master that is up.
            RedisError: The failure of one of them, if no sentinel answered.
        """
        failure: RedisError | None = None
        answered = False
        first = self._first
        for step in range(len(self.sentinels)):
            number = (first + step) % len(self.sentinels)
            try:
                masters: Any = self.sentinels[number].sentinel_masters()
            except RedisError as error:
                failure = error
                continue
            answered = True
            state = masters.get(service_name)
            # Leaves out a master that is down, so that calls fail at once until another is named.
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                self._first = number
                return state["ip"], state["port"]
        if failure is not None and not answered:
            raise failure
        raise MasterNotFoundError(f"no sentinel knows a master of {service_name!r} that is up")


def _server_options(sentinels: SentinelUrl) -> dict[str, Any]:
    """The options of connections to the servers behind sentinels."""
    options: dict[str, Any] = parse_url(sentinels.server_url)  # type: ignore[no-untyped-call]
    for unused in ("host", "port", "connection_class"):
        options.pop(unused, None)
    return options


def _sentinel_manager(sentinels: SentinelUrl, timeout: float) -> _SentinelManager:
    options = _server_options(sentinels)
    return _SentinelManager(  # type: ignore[no-untyped-call]
        sentinels.addresses,
        sentinel_kwargs={
            **{name: value for name, value in options.items() if name.startswith("ssl_")},
            "ssl": urls.is_tls(sentinels.server_url),
            **_limits(timeout / len(sentinels.addresses), 0.0),
            "username": sentinels.sentinel_username,
            "password": sentinels.sentinel_password,
        },
    )


class _StrictConnection:
    """A connection that is closed if a reply does not come in time.

    redis-py's connections behind sentinels stay open then, and a late reply would be read as
    that of the next call.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        """One reply, or an error and no connection."""
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*args, **options)  # type: ignore[misc]


class _PlainConnection(_StrictConnection, SentinelManagedConnection):
    pass


class _TlsConnection(_StrictConnection, SentinelManagedSSLConnection):
    pass


class _SentinelClient(redis.Redis):
    """A client of the current master."""

    def close(self) -> None:
        """Close the connections to the servers, and those to the sentinels."""
        super().close()
        pool = cast(SentinelConnectionPool, self.connection_pool)
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


def _limits(timeout: float, block_seconds: float) -> dict[str, Any]:
    # One retry, and none after a timeout: a pooled connection that a restarted server closed is
    # replaced, and a server that does not reply is not asked twice.
    return {
        "protocol": 2,
        "socket_timeout": timeout + block_seconds,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
