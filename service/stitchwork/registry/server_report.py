"""What the registry and queue servers are set up for: durability, eviction, and what they store."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.registry import Registry

REFRESH_SECONDS: Final = 10.0
"""Time for which the servers are not read again."""


class ServerReport(NamedTuple):
    """The setup of the servers.

    Attributes:
        durability: What a 201 of a registration guarantees.
        warnings: Settings of the servers that lose or expose data.
    """

    durability: str
    warnings: list[str]


class ServerReporter:
    """Reports the setup of the servers, which can change while they run.

    Args:
        registry: The registry.
        shards: The shards of the queue.
    """

    def __init__(self, registry: Registry, shards: Sequence[RedisClient]) -> None:
        self._registry = registry
        self._shards = shards
        self._report = ServerReport("", [])
        self._next_refresh = float("-inf")

    def report(self) -> ServerReport:
        """The report of the last few seconds; servers that do not answer are left out of it."""
        if time.monotonic() >= self._next_refresh:
            self._report = self._read()
            self._next_refresh = time.monotonic() + REFRESH_SECONDS
        return self._report

    def _read(self) -> ServerReport:
        server = self._registry.server
        try:
            registry = _info(server)
        except RegistryUnavailableError:
            return ServerReport("unknown: the registry is unavailable", [])
        warnings: list[str] = []
        policy = registry["maxmemory_policy"]
        if policy != "noeviction":
            warnings.append(
                f"the registry server may evict what is registered (maxmemory-policy {policy}); "
                "expected noeviction"
            )
        setups = []
        for shard in self._shards:
            try:
                setups.append((shard, _info(shard)))
            except QueueUnavailableError:
                continue
            if len(self._shards) > 1:
                warnings += _unblock_warnings(shard)
        for shard, queue in setups:
            warnings += _queue_warnings(shard, queue, server, registry)
        for (shard, queue), (other, other_queue) in combinations(setups, 2):
            if queue["run_id"] == other_queue["run_id"]:
                warnings.append(
                    f"shards {shard.tag} and {other.tag} of the queue are on one node of their "
                    "cluster; move the slot of one of them to another node"
                )
        return ServerReport(self._durability(registry), warnings)

    def _durability(self, registry: dict[str, Any]) -> str:
        if self._registry.durable:
            replicas = self._registry.server.replicas
            also = f", and those of {replicas} of its replicas" if replicas else ""
            return (
                "aof: a registration is acknowledged once the registry's append-only file has it"
                + also
            )
        if registry["aof_enabled"] and _syncs_always(self._registry.server):
            return (
                "aof: the registry server writes each change to its append-only file before it "
                "answers (appendfsync always)"
            )
        return "none: registrations are acknowledged before they are on disk"


def _queue_warnings(
    shard: RedisClient, queue: Mapping[str, Any], server: RedisClient, registry: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with the setup of a queue server, beside that of the registry server."""
    is_one = queue["run_id"] == registry["run_id"]
    if is_one and shard.key("") != server.key(""):
        what = "queue" if shard.name == "queue server" else f"shard {shard.tag} of the queue"
        yield (
            f"registry and {what} are on one node of their cluster; move the slot of one of them "
            "to another node"
        )
    elif is_one:
        yield (
            "the registry server is also the queue server; set queue_url "
            "(STITCHWORK_QUEUE_URL) to a server of its own, which is memory only"
        )
    elif queue["maxmemory_policy"].startswith("allkeys"):
        yield (
            f"the {shard.name} may evict jobs (maxmemory-policy {queue['maxmemory_policy']}); "
            "expected noeviction or volatile-lru"
        )
    if queue.get("aof_enabled"):
        yield (
            f"raw inputs and embeddings of requests are in the append-only file of the {shard.name}"
        )


def _unblock_warnings(shard: RedisClient) -> Iterator[str]:
    """A warning if a server of several shards refuses a command that workers need only there."""
    try:
        # No connection has this number.
        shard.execute(("CLIENT", "UNBLOCK", 0))
    except QueueUnavailableError as error:
        if isinstance(error.__cause__, ResponseError):
            yield (
                f"{error.message}; workers need CLIENT UNBLOCK (the right client|unblock) for a "
                "queue of several shards, and lose time with each batch without it"
            )


def _info(server: RedisClient) -> dict[str, Any]:
    with server.session() as client:
        # A node of a cluster that no longer has the keys says so only to a command with a key.
        client.exists(server.key("absent"))
        sections: Any = [client.info(name) for name in ("server", "memory", "persistence")]
    return {name: value for section in sections for name, value in section.items()}


def _syncs_always(server: RedisClient) -> bool:
    try:
        with server.session() as client:
            values: Any = client.config_get("appendfsync")
    except RegistryUnavailableError:
        # Managed servers refuse the command, and promise nothing.
        return False
    return bool(values.get(b"appendfsync", values.get("appendfsync")) in (b"always", "always"))
