"""Connection pools for one server, a service behind sentinels, or a cluster."""

from functools import partial
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
)
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

from stitchwork.errors import QueueUnavailableError, UnavailableError
from stitchwork.redis import PREFIX, urls
from stitchwork.redis.cluster import (
    SlotOwner,
    render_address,
)
from stitchwork.redis.urls import ClusterUrl, SentinelUrl

REGISTRY_TAG: Final = "records"
QUEUE_TAGS: Final = tuple(f"q{number}" for number in range(16))
"""Hash tags of the shards of the queue. In a cluster of three masters with slots in order, the
registry and the first two shards are on different nodes, and so are the first three shards."""
OUTDATED: Final = (ReadOnlyError, ClusterDownError, MovedError)
"""Refusals after which a new connection may reach another server, the current master."""


def hash_tag(error_class: type[UnavailableError]) -> str:
    """The hash tag of a server's keys, where it has no shards; `error_class` is its error."""
    return QUEUE_TAGS[0] if issubclass(error_class, QueueUnavailableError) else REGISTRY_TAG


def key_prefix(url: str, tag: str) -> str:
    """What the names of all keys on a server begin with; on a cluster it has a hash tag.

    Args:
        url: The server's URL.
        tag: The hash tag.
    """
    return PREFIX if urls.parse_cluster_url(url) is None else f"{PREFIX}{{{tag}}}:"


def slot_owner(url: str, prefix: str, timeout: float) -> SlotOwner | None:
    """What finds the node of a cluster that has the keys; None if the URL is of no cluster.

    Args:
        url: Any URL that `urls.validate_url` accepts.
        prefix: What the names of all keys begin with.
        timeout: Seconds that a lookup may take.
    """
    cluster = urls.parse_cluster_url(url)
    if cluster is None:
        return None
    attempts = min(len(cluster.addresses), 3)
    options = {**_server_options(cluster), **_limits(timeout / attempts, 0.0)}
    return SlotOwner(cluster, prefix, options)


def connect(
    url: str, timeout: float, owner: SlotOwner | None = None, *, block_seconds: float = 0.0
) -> redis.Redis:
    """A client with its own pool; it connects at the first call.

    Args:
        url: Any URL that `urls.validate_url` accepts.
        timeout: Seconds that connecting may take, and a call. All sentinels together have as
            long to name the master.
        owner: What finds the node, if the URL is of a cluster.
        block_seconds: Seconds that a blocking command may take in addition.
    """
    cluster = urls.parse_cluster_url(url)
    if cluster is not None and owner is not None:
        cluster_pool = ConnectionPool(
            connection_class=_TlsNodeConnection if urls.is_tls(url) else _NodeConnection,
            owner=owner,
            **_server_options(cluster),
            **_limits(timeout, block_seconds),
        )
        return _ClusterClient.from_pool(cluster_pool)
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


def _server_options(service: SentinelUrl | ClusterUrl) -> dict[str, Any]:
    """The options of connections to the servers behind sentinels, or of a cluster."""
    options: dict[str, Any] = parse_url(service.server_url)  # type: ignore[no-untyped-call]
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


class _OwnedConnection:
    """A connection to the node of a cluster that owns a slot.

    Args:
        owner: Finds the node.
        options: The options of a connection.
    """

    def __init__(self, *, owner: SlotOwner, **options: Any) -> None:
        self._owner = owner
        super().__init__(**options)

    def connect_check_health(
        self: Any, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        """Connect to the node that owns the slot now, if there is no connection.

        redis-py connects by this method, also when it sends a command on a closed connection.
        """
        if not self.is_connected:
            connect = partial(self._connect_to_owner, check_health)
            self.retry.call_with_retry(connect, lambda _: None)

    def _connect_to_owner(self: Any, check_health: bool) -> None:
        address = self.host, self.port = self._owner.find()
        try:
            super().connect_check_health(check_health, retry_socket_connect=False)  # type: ignore[misc]
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._owner.forget()
            error.add_note(f"node {render_address(address)}, as the cluster announces it")
            raise


class _NodeConnection(_OwnedConnection, Connection):
    pass


class _TlsNodeConnection(_OwnedConnection, SSLConnection):
    pass


class _ClusterClient(redis.Redis):
    """A client of the node that owns a slot, which follows it to another node once a command."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply to a command."""
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except MovedError as redirection:
            self.connection_pool.connection_kwargs["owner"].move(redirection)
            self.connection_pool.disconnect(inuse_connections=False)
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


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
