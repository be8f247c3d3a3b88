"""Images by URL, from allowed hosts only."""

import asyncio
import ipaddress
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from stitchwork.api.content.validation import check_count
from stitchwork.errors import ErrorCode, InputTooLargeError, InvalidInputError, QueueFullError
from stitchwork.resources import LONG_CHARACTERS, Input, LongText, Modality

if TYPE_CHECKING:
    from httpcore import AsyncConnectionPool

SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}:")
"""Start of a URL; base64 has no colon, and may be long."""
HTTPS_URL: Final = re.compile(r"https://[!-~]{1,2000}")
HEADERS: Final[dict[bytes | str, bytes | str]] = {
    "User-Agent": "stitchwork",
    "Accept": "image/jpeg, image/png, image/webp, image/avif, image/heic, image/*;q=0.5",
    "Accept-Encoding": "identity",
}
NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            # Addresses that stand for an IPv4 address, private ones included.
            "::/96",
            "::ffff:0:0/96",
            "::ffff:0:0:0/96",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2001::/32",
            "2002::/16",
            # Addresses of a site, of protocols, and of documentation, which not every release of
            # Python knows.
            "fec0::/10",
            "3fff::/20",
            "5f00::/16",
            "192.0.0.0/24",
            "192.88.99.0/24",
        ),
    )
)
"""Networks that are refused in addition to those that Python's `is_global` excludes."""


def is_public(address: str) -> bool:
    """Whether an IP address is public and does not stand for an IPv4 address."""
    ip = ipaddress.ip_address(address)
    if any(ip in network for network in NOT_PUBLIC if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast


class ImageFetcher:
    """Fetches image inputs from `https` URLs, without redirects and from public addresses only.

    Args:
        hosts: Patterns of allowed hosts, `name` or, for another port than 443, `name:port`; empty
            refuses every URL.
        max_urls: Maximum number of URLs in one request.
        max_bytes: Maximum size of one image.
        max_inflight_bytes: Maximum size of all images that this process holds at a time.
        timeout_seconds: Maximum time for one image.
        is_allowed: Whether an IP address may be connected to.
        tls: Trusted certificate authorities; None for the default ones.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_urls: int,
        max_bytes: int,
        max_inflight_bytes: int,
        timeout_seconds: float,
        is_allowed: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._max_urls = max_urls
        self._max_bytes = max_bytes
        self._max_inflight_bytes = max_inflight_bytes
        self._timeout_seconds = timeout_seconds
        self._is_allowed = is_allowed
        self._custom_tls = tls
        self._inflight_bytes = 0

    @asynccontextmanager
    async def by_value(
        self, items: Sequence[Input], modality: Modality
    ) -> AsyncGenerator[Sequence[Input], None]:
        """A context with the inputs, each URL replaced by the image that it names.

        Inputs of other modalities are returned unchanged, even if they look like URLs.

        Raises:
            InvalidInputError: If a URL is not allowed, or the image cannot be fetched; the pointer
                is `/items/{i}`.
            InputTooLargeError: If there are too many URLs, or an image is too large.
            QueueFullError: If the images of all requests together are too large.
        """
        places = [i for i, item in enumerate(items) if modality == "image" and _is_url(item)]
        if not places:
            yield items
            return
        check_count(len(places), self._max_urls, "items", "max_items", "/items")
        sizes: list[int] = []
        try:
            urls = [self._check(str(items[i])[:LONG_CHARACTERS], f"/items/{i}") for i in places]
            from stitchwork.api.checked_network import connection_pool

            async with connection_pool(self._tls, self._is_allowed) as pool:
                tasks = [
                    asyncio.ensure_future(self._fetch(pool, url, f"/items/{i}", sizes))
                    for i, url in zip(places, urls, strict=True)
                ]
                try:
                    images = dict(zip(places, await asyncio.gather(*tasks), strict=True))
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            yield [images.get(i, item) for i, item in enumerate(items)]
        finally:
            self._inflight_bytes -= sum(sizes)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        from stitchwork.api.checked_network import default_tls

        return self._custom_tls or default_tls()

    def _check(self, url: str, pointer: str) -> str:
        """Return the URL if its host is allowed.

        Raises:
            InvalidInputError: If it is not.
        """
        if not self._hosts:
            raise InvalidInputError(
                "expected the base64 of an image file; URLs are disabled (image_url_hosts)",
                pointer=pointer,
                code=ErrorCode.URL_NOT_ALLOWED,
            )
        try:
            parts = urlsplit(url if HTTPS_URL.fullmatch(url) else "")
            # A port that is no port number raises the same error.
            host = parts.netloc.lower() if parts.port != 0 else ""
        except ValueError:
            host = ""
        if (
            not host
            or "@" in host
            or not any(fnmatchcase(host, pattern) for pattern in self._hosts)
        ):
            raise InvalidInputError(
                "expected the base64 of an image file, or its https URL on an allowed host "
                "(image_url_hosts)",
                pointer=pointer,
                code=ErrorCode.URL_NOT_ALLOWED,
            )
        return url

    async def _fetch(
        self, pool: "AsyncConnectionPool", url: str, pointer: str, sizes: list[int]
    ) -> bytes:
        """The image at a URL; adds the sizes of its parts, for the caller to release."""
        from stitchwork.api.checked_network import NETWORK_ERRORS, PrivateAddressError

        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                pool.stream("GET", url, headers=HEADERS) as response,
            ):
                if response.status != 200:
                    raise _unavailable(f"status 200, got {response.status}", pointer)
                parts, size = list[bytes](), 0
                async for part in response.aiter_stream():
                    sizes.append(len(part))
                    self._inflight_bytes += len(part)
                    if self._inflight_bytes > self._max_inflight_bytes:
                        raise QueueFullError(
                            f"expected images by URL of at most {self._max_inflight_bytes} bytes "
                            "(max_inflight_body_bytes) at a time in this process, got more"
                        )
                    size += len(part)
                    if size > self._max_bytes:
                        raise InputTooLargeError(
                            f"expected an image of at most {self._max_bytes} bytes "
                            "(max_image_url_bytes), got more",
                            pointer=pointer,
                        )
                    parts.append(part)
                return b"".join(parts)
        except TimeoutError as error:
            limit = f"{self._timeout_seconds:g} seconds (image_url_timeout_seconds)"
            raise _unavailable(f"an image within {limit}, got a timeout", pointer) from error
        except UnicodeError as error:
            raise _unavailable("a host name that can be looked up", pointer) from error
        except PrivateAddressError as error:
            raise _unavailable("a host with public addresses only", pointer) from error
        except NETWORK_ERRORS as error:
            raise _unavailable(f"a response, got {type(error).__name__}", pointer) from error


def _is_url(item: Input) -> bool:
    if isinstance(item, LongText):
        item = str(bytes(item.data[:LONG_CHARACTERS]), "utf-8", "replace")
    return isinstance(item, str) and SCHEME.match(item) is not None


def _unavailable(expected: str, pointer: str) -> InvalidInputError:
    return InvalidInputError(
        f"the image cannot be fetched: expected {expected}",
        pointer=pointer,
        code=ErrorCode.URL_UNAVAILABLE,
    )
