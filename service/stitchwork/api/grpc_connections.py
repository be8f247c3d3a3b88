"""The connections of the gRPC server, of which idle ones without a key make room for others.

The library only closes newcomers at its limit, so that a client that holds connections, and opens
them again when they are closed for being idle, would keep everyone else out. It does not hand out
its connections either: they are found among the descriptors of the process, and shut down.
"""

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import unquote

from stitchwork.addresses import without_mapping
from stitchwork.background import AsyncPeriodicTask

log = logging.getLogger(__name__)

Client: TypeAlias = tuple[str, int]
"""Address and port of a client."""

DESCRIPTORS: Final = "/dev/fd"
CHECK_SECONDS: Final = 0.1
FULL: Final = 0.75
"""Part of the limit above which connections are closed, down to `ROOM` of it."""
ROOM: Final = 0.5


class Connection(NamedTuple):
    """A connection of a client.

    Attributes:
        client: Address and port of the client.
        descriptor: Its file descriptor, unless it was closed since.
    """

    client: Client
    descriptor: int


class GrpcConnections:
    """Closes idle connections without a key where the gRPC server has nearly too many.

    Args:
        port: Where it listens.
        limit: How many connections it accepts.
    """

    def __init__(self, port: int, limit: int) -> None:
        self._port = port
        self._limit = limit
        self._threshold = int(FULL * limit)
        self._calls: Counter[Client] = Counter()
        self._with_key: set[Client] = set()
        self._opened: dict[Client, float] = {}
        self.task = AsyncPeriodicTask("grpc-connections", self._watch, CHECK_SECONDS)
        """Checks the number of connections, also after it could not be determined."""

    @contextmanager
    def call(self, client: Client | None) -> Iterator[None]:
        """Meanwhile a client has a call in progress, and its connection stays."""
        if client is None:
            yield
            return
        self._calls[client] += 1
        try:
            yield
        finally:
            self._calls[client] -= 1
            if not self._calls[client]:
                del self._calls[client]

    def add_key(self, client: Client | None) -> None:
        """A client has shown a valid key."""
        if client is not None:
            self._with_key.add(client)

    async def _watch(self) -> None:
        # No process has more connections than descriptors, which are counted in no time.
        if max(len(os.listdir(DESCRIPTORS)), len(self._with_key)) > self._threshold:
            await asyncio.to_thread(self.check)

    def check(self) -> int:
        """Close connections if there are too many; returns how many were closed."""
        connections = {one.client: one for one in self._list()}
        now = time.monotonic()
        self._opened = {client: self._opened.get(client, now) for client in connections}
        self._with_key.intersection_update(connections)
        if len(connections) <= self._threshold:
            return 0
        count = len(connections) - int(ROOM * self._limit)
        closed = sum(self._close(connections[client]) for client in self._idle()[:count])
        log.info("gRPC connections closed", extra={"count": closed, "limit": self._limit})
        return closed

    def _idle(self) -> list[Client]:
        """Clients without a key or a call: those of the address that has most, then the oldest."""
        idle = [
            client
            for client in self._opened
            if client not in self._with_key and client not in self._calls
        ]
        addresses = Counter(address for address, _ in idle)
        return sorted(idle, key=lambda client: (-addresses[client[0]], self._opened[client]))

    def _list(self) -> Iterator[Connection]:
        for name in os.listdir(DESCRIPTORS):
            with suppress(OSError), _duplicate(int(name)) as duplicate:
                client = self._client(duplicate)
                if client is not None:
                    yield Connection(client, int(name))

    def _close(self, connection: Connection) -> bool:
        """Shut a connection down, unless it was closed and its descriptor is another one's."""
        with suppress(OSError), _duplicate(connection.descriptor) as duplicate:
            if self._client(duplicate) == connection.client:
                duplicate.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _client(self, connection: socket.socket) -> Client | None:
        """The client of a connection of the gRPC server; None for any other socket.

        Raises:
            OSError: If it is not connected.
        """
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        address, port = connection.getpeername()[:2]
        is_own = connection.getsockname()[1] == self._port
        return (without_mapping(address), port) if is_own else None


@contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket]:
    """A duplicate of a socket, which nobody else closes, and opens as something else, meanwhile.

    Raises:
        OSError: If it is closed or is no socket.
    """
    number = os.dup(descriptor)
    try:
        duplicate = socket.socket(fileno=number)
    except OSError:
        os.close(number)
        raise
    with duplicate:
        yield duplicate


def parse_peer(peer: str) -> Client | None:
    """Address and port of a peer such as `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    family, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return host.strip("[]"), int(port)
