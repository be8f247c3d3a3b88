"""Clients of one server, however it is reached, and why one of them failed."""

import errno
import ssl
from collections.abc import Iterator
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from stitchwork.redis import urls

_ENDED: Final = (
    *(ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError),
    *(ConnectionResetError, BrokenPipeError),
)
"""What is raised over TLS where the other side is gone. In TLS 1.3 a server refuses a client's
certificate only after the handshake, and its reason is often lost with the connection."""

_NO_FILE: Final = (errno.ENOENT, errno.EACCES)


def connect(url: str, timeout: float, *, patience: float = 0.0) -> redis.Redis:
    """A client with a pool of its own; it connects when it is first used.

    Args:
        url: Any URL that `addresses.check` takes.
        timeout: Seconds that connecting may take, and a call. All sentinels together have as
            long to name the master.
        patience: Seconds a call may take beyond that, because it blocks on purpose.
    """
    given = urls.sentinels(url)
    if given is None:
        return redis.Redis.from_url(url, **_bounds(timeout, patience))
    options: dict[str, Any] = parse_url(given.server_url)  # type: ignore[no-untyped-call]
    for unused in ("host", "port", "connection_class"):
        options.pop(unused, None)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    encrypted = urls.is_tls(url)
    watchers = _Watchers(  # type: ignore[no-untyped-call]
        given.places,
        sentinel_kwargs={
            **tls,
            "ssl": encrypted,
            **_bounds(timeout / len(given.places), 0.0),
            "username": given.sentinel_username,
            "password": given.sentinel_password,
        },
    )
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        given.service,
        watchers,
        connection_class=_Encrypted if encrypted else _Plain,
        **options,
        **_bounds(timeout, patience),
    )
    return _Watched.from_pool(pool)


def why(error: RedisError, url: str) -> str:
    """What follows the name of the server at a URL that could not be used; never a secret."""
    if isinstance(error, AuthenticationError):
        return "refused the user name or the password"
    if isinstance(error, MasterNotFoundError):
        return "has no master that its sentinels know to be up"
    for cause in _causes(error):
        if isinstance(cause, ReadOnlyError):
            return "has become a read-only replica"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted: {cause.verify_message}"
        if isinstance(cause, _ENDED) and urls.is_tls(url):
            return "ended the TLS connection: it is stopping, or wants a client's certificate"
        if isinstance(cause, ssl.SSLError):
            about = (cause.reason or "unknown").lower().replace("_", " ")
            return f"cannot be reached over TLS, check the certificates: {about}"
        if isinstance(cause, OSError) and cause.errno in _NO_FILE and urls.is_tls(url):
            return "cannot be reached over TLS: a certificate or key file cannot be read"
    return "cannot be reached or does not answer"


class _Watchers(Sentinel):
    """Sentinels that are asked in turn, the last one that knew first."""

    _knew = 0

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master.

        redis-py's own puts the texts of all failures into one error. Here the failure itself is
        kept, so that a timeout is not tried twice and a certificate can be named; and the list
        that threads share is not reordered.

        Raises:
            MasterNotFoundError: If a sentinel answered, and none knows a master that is up.
            RedisError: The failure of one of them, if no sentinel answered.
        """
        failure: RedisError | None = None
        answered = False
        first = self._knew
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
                self._knew = number
                return state["ip"], state["port"]
        if failure is not None and not answered:
            raise failure
        raise MasterNotFoundError(f"no sentinel knows a master of {service_name!r} that is up")


class _Whole:
    """A connection that is not used again once a reply did not come in time.

    redis-py's connections behind sentinels stay open then, and a late reply would be read as
    that of the next call.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        """One reply, or an error and no connection."""
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*args, **options)  # type: ignore[misc]


class _Plain(_Whole, SentinelManagedConnection):
    pass


class _Encrypted(_Whole, SentinelManagedSSLConnection):
    pass


class _Watched(redis.Redis):
    """A client of whichever server is the master now."""

    def close(self) -> None:
        """Give back the connections to the servers, and those to the sentinels."""
        super().close()
        pool = cast(SentinelConnectionPool, self.connection_pool)
        for watcher in pool.sentinel_manager.sentinels:
            watcher.close()


def _bounds(timeout: float, patience: float) -> dict[str, Any]:
    # One retry, and none after a timeout: a pooled connection that a restarted server closed is
    # replaced, and a silent server is not asked twice.
    return {
        "protocol": 2,
        "socket_timeout": timeout + patience,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
