"""Connections to public addresses; the only code that connects to what a request names.

It is imported with the first image by URL, since most services allow none.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore

MAX_CONNECTIONS: Final = 8
"""Connections of one request at a time."""
NETWORK_ERRORS: Final = (
    OSError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


def connection_pool(
    tls: ssl.SSLContext, is_allowed: Callable[[str], bool]
) -> httpcore.AsyncConnectionPool:
    """Connections for one request.

    Args:
        tls: Trusted certificate authorities.
        is_allowed: Whether an IP address may be connected to.
    """
    return httpcore.AsyncConnectionPool(
        tls, max_connections=MAX_CONNECTIONS, network_backend=_CheckedNetwork(is_allowed)
    )


def default_tls() -> ssl.SSLContext:
    """The default certificate authorities."""
    return httpcore.default_ssl_context()


class PrivateAddressError(Exception):
    """A host has an address that is not allowed; known only when it is looked up to connect."""


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Looks a host up once, checks its addresses, and connects to one of the checked addresses."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 overrides httpcore's method
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host, all of whose addresses must be allowed."""
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in infos]
        if not all(map(self._is_allowed, addresses)):
            raise PrivateAddressError(host)
        return await self._network.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await self._network.sleep(seconds)
