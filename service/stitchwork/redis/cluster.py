"""Redis Cluster and Valkey Cluster: all keys of a server are in one slot, which one node owns.

A commit is one script over several keys, and a cluster runs a script only if its keys are in one
slot. So the registry's keys have one hash tag, the queue's another, and each behaves as a server of
its own that moves: to another node with its slot, or to a replica after a failover.

A node that moves a slot key by key, rather than at once, refuses commands on keys that it has
moved, and fails scripts in the middle, at the first command on such a key. `guard` makes a script
fail before it has written anything.
"""

from typing import Any, Final

import redis
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from stitchwork.redis import urls
from stitchwork.redis.urls import ClusterUrl

Address = tuple[str, int]

MAX_ATTEMPTS: Final = 3
"""Nodes that are tried within the time limit of a lookup, which they share."""
_NON_LOCAL: Final = "access a non local key"
_NO_CLUSTER: Final = "cluster support disabled"


class MissingOwnerError(RedisConnectionError):
    """No node names an owner of the slot; the text says why, as a predicate for the server."""


class SlotOwner:
    """Finds the node of a cluster that owns a slot; its clients share it.

    Args:
        cluster: The cluster.
        key: A key of the slot.
        options: Options of connections to its nodes, as redis-py has them, with their time limit.
    """

    def __init__(self, cluster: ClusterUrl, key: str, options: dict[str, Any]) -> None:
        self._seeds = list(cluster.addresses)
        self._slot = key_slot(key.encode())
        self._options = options
        self._is_tls = urls.is_tls(cluster.server_url)
        self._learned: list[Address] = []
        self._first = 0
        self._owner: Address | None = None

    def find(self) -> Address:
        """Host and port of the owner: the last known one, or as a node names it.

        Raises:
            MissingOwnerError: If a node answered, and none names an owner.
            RedisError: The failure of one of them, if no node answered.
        """
        owner = self._owner
        if owner is None:
            owner = self._owner = self._look_up()
        return owner

    def move(self, redirection: MovedError) -> None:
        """Use the owner that a node has named in its refusal."""
        previous = self._owner
        host, port = redirection.node_addr
        # Without a host it is another port of the node that refused.
        known = host if host not in ("", "?") else previous[0] if previous else None
        self._owner = (known, port) if known else None

    def forget(self) -> None:
        """Look the owner up again at the next call, beginning with another node."""
        self._owner = None
        self._first += 1

    def _look_up(self) -> Address:
        nodes = [*self._seeds, *(node for node in self._learned if node not in self._seeds)]
        failure: RedisError | None = None
        answered = False
        for step in range(min(len(nodes), MAX_ATTEMPTS)):
            node = nodes[(self._first + step) % len(nodes)]
            try:
                owner = self._ask(node)
            except MissingOwnerError:
                raise
            except RedisError as error:
                error.add_note(f"node {render_address(node)}")
                failure = error
                continue
            answered = True
            if owner is not None:
                self._first = (self._first + step) % len(nodes)
                return owner
        self._first += MAX_ATTEMPTS
        if failure is not None and not answered:
            raise failure
        raise MissingOwnerError(f"has no node that serves slot {self._slot}")

    def _ask(self, node: Address) -> Address | None:
        host, port = node
        with redis.Redis(host=host, port=port, ssl=self._is_tls, **self._options) as client:
            try:
                ranges: Any = client.execute_command("CLUSTER", "SLOTS")
            except ResponseError as error:
                if _NO_CLUSTER in str(error):
                    scheme = "rediss" if self._is_tls else "redis"
                    raise MissingOwnerError(
                        f"is no cluster; expected {scheme}:// for one server"
                    ) from error
                raise
        owner: Address | None = None
        learned: list[Address] = []
        for first, last, *members in ranges:
            addresses = [_address(member, host) for member in members]
            learned += [address for address in addresses if address is not None]
            if first <= self._slot <= last and members:
                owner = addresses[0]
                if owner is None:
                    raise MissingOwnerError(
                        f"has no reachable address for slot {self._slot}: its node announces no "
                        "host name; set cluster-announce-hostname, or "
                        "cluster-preferred-endpoint-type ip"
                    )
        self._learned = learned
        return owner


def guard(key: str) -> str:
    """Lua that fails if the slot of a key that never exists is being moved key by key."""
    return f"redis.call('EXISTS', '{key}') "


def refusal_predicate(error: RedisError, url: str) -> str | None:
    """A predicate for a server that refused a command since it is a cluster; None for others.

    Args:
        error: The refusal.
        url: The server's URL.
    """
    is_cluster = urls.parse_cluster_url(url) is not None
    if isinstance(error, (AskError, TryAgainError, ClusterCrossSlotError)) and not is_cluster:
        scheme = "clusters" if urls.is_tls(url) else "cluster"
        return f"is a node of a cluster; expected {scheme}:// in its URL"
    if isinstance(error, MovedError):
        return "has moved to another node of its cluster"
    if isinstance(error, (AskError, TryAgainError)) or _NON_LOCAL in str(error):
        return "is being moved to another node of its cluster"
    return None


def render_address(address: Address) -> str:
    """An address for display."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(member: Any, default_host: str) -> Address | None:
    """The address of a node in a reply to CLUSTER SLOTS; None if it announces none."""
    host, port = member[0], int(member[1])
    if isinstance(host, bytes):
        host = host.decode()
    if host == "?":
        return None
    # A node that does not know its own address means the one by which it was reached.
    return (str(host) if host else default_host, port)
