"""Images by URL, from hosts that whoever runs the service names; all that follows an address."""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore

from stitchwork.errors import ErrorCode, InputTooLargeError, InvalidInputError, QueueFullError
from stitchwork.resources import Modality

ADDRESS: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
"""How a URL begins; base64 has no colon."""
HTTPS: Final = re.compile(r"https://[!-~]{1,2000}")
CONNECTIONS: Final = 8
"""That one request may have at a time."""
HEADERS: Final[dict[bytes | str, bytes | str]] = {
    "User-Agent": "stitchwork",
    "Accept": "image/jpeg, image/png, image/webp",
    "Accept-Encoding": "identity",
}
TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
"""Addresses of version 6 that stand for any of version 4, private ones included."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network, and stands for no other."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and (
        found.ipv4_mapped or found.sixtofour or found.teredo or found in TRANSLATED
    ):
        return False
    return found.is_global and not found.is_multicast


class ImageFetcher:
    """Fetches what image inputs name by `https` URLs: no redirects, no private addresses.

    Args:
        hosts: Patterns of the hosts that may be asked, `name` or, for a port of its own,
            `name:port`; none refuses every URL.
        most: URLs that one request may have.
        most_bytes: Bytes that one image may have.
        most_held: Bytes that all images under way in this process may have.
        seconds: How long all of one image may take.
        public: Whether an address may be connected to.
        tls: Which authorities are trusted; None trusts the usual ones.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        most: int,
        max_bytes: int,
        most_held: int,
        seconds: float,
        public: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._most = most
        self._most_bytes = max_bytes
        self._most_held = most_held
        self._seconds = seconds
        self._public = public
        self._given_tls = tls
        self._held = 0

    @asynccontextmanager
    async def by_value(
        self, items: list[str | bytes], modality: Modality
    ) -> AsyncGenerator[list[str | bytes], None]:
        """Inputs, with what lies there in place of each URL; texts are never taken for one.

        Raises:
            InvalidInputError: If a URL may not be followed, or what is asked for does not come;
                the pointer `/items/{i}` says which.
            InputTooLargeError: If there are too many of them, or an image has too many bytes.
            QueueFullError: If all that is being fetched in this process has.
        """
        places = [
            i
            for i, item in enumerate(items)
            if modality == "image" and isinstance(item, str) and ADDRESS.match(item)
        ]
        if not places:
            yield items
            return
        if len(places) > self._most:
            raise InputTooLargeError(
                f"expected at most {self._most} items (max_items), got {len(places)}",
                pointer="/items",
            )
        held: list[int] = []
        try:
            urls = [self._checked(str(items[i]), f"/items/{i}") for i in places]
            async with httpcore.AsyncConnectionPool(
                self._tls, max_connections=CONNECTIONS, network_backend=_Checking(self._public)
            ) as pool:
                tasks = [
                    asyncio.ensure_future(self._fetch(pool, url, f"/items/{i}", held))
                    for i, url in zip(places, urls, strict=True)
                ]
                try:
                    found = dict(zip(places, await asyncio.gather(*tasks), strict=True))
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            yield [found.get(i, item) for i, item in enumerate(items)]
        finally:
            self._held -= sum(held)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or httpcore.default_ssl_context()

    def _checked(self, url: str, pointer: str) -> str:
        """A URL that may be followed.

        Raises:
            InvalidInputError: If it may not.
        """
        if not self._hosts:
            raise InvalidInputError(
                "expected the base64 of an image file; images by URL are off (image_url_hosts)",
                pointer=pointer,
                code=ErrorCode.URL_NOT_ALLOWED,
            )
        try:
            host = urlsplit(url).netloc.lower() if HTTPS.fullmatch(url) else ""
        except ValueError:
            host = ""
        if not host or "@" in host or not any(fnmatchcase(host, one) for one in self._hosts):
            raise InvalidInputError(
                "expected the base64 of an image file, or its https URL on a host that is allowed "
                "(image_url_hosts)",
                pointer=pointer,
                code=ErrorCode.URL_NOT_ALLOWED,
            )
        return url

    async def _fetch(
        self, pool: httpcore.AsyncConnectionPool, url: str, pointer: str, held: list[int]
    ) -> bytes:
        try:
            async with (
                asyncio.timeout(self._seconds),
                pool.stream("GET", url, headers=HEADERS) as answer,
            ):
                if answer.status != 200:
                    raise _failed(f"its host answered {answer.status}, not 200", pointer)
                parts, size = list[bytes](), 0
                async for part in answer.aiter_stream():
                    held.append(len(part))
                    self._held += len(part)
                    if self._held > self._most_held:
                        raise QueueFullError(
                            f"images that are being fetched hold {self._most_held} bytes "
                            "(max_inflight_body_bytes) in this process already"
                        )
                    size += len(part)
                    if size > self._most_bytes:
                        raise InputTooLargeError(
                            f"an image by URL may have {self._most_bytes} bytes "
                            "(max_image_url_bytes)",
                            pointer=pointer,
                        )
                    parts.append(part)
                return b"".join(parts)
        except TimeoutError as error:
            told = f"it did not come within {self._seconds:g} seconds (image_url_timeout_seconds)"
            raise _failed(told, pointer) from error
        except _PrivateAddress as error:
            raise _failed("its host has an address that is not public", pointer) from error
        except (*_FAULTS, OSError) as error:
            raise _failed(f"{type(error).__name__} at its host", pointer) from error


class _PrivateAddress(Exception):
    """A host whose address is not to be connected to; known only when it is about to be."""


class _Checking(httpcore.AsyncNetworkBackend):
    """Looks a host up, checks what it is told, and connects to just that: it is not asked twice."""

    def __init__(self, public: Callable[[str], bool]) -> None:
        self._public = public
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 as its callers name it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to a host, all of whose addresses are public."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(told[4][0]) for told in found]
        if not all(map(self._public, addresses)):
            raise _PrivateAddress(host)
        return await self._network.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        """As the network has it."""
        await self._network.sleep(seconds)


_FAULTS: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


def _failed(why: str, pointer: str) -> InvalidInputError:
    told = f"the image cannot be fetched: {why}"
    return InvalidInputError(told, pointer=pointer, code=ErrorCode.URL_UNAVAILABLE)
