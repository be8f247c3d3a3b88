"""The HTTP client that sends load."""

from typing import Final

import aiohttp

GRACE_SECONDS: Final = 5.0
"""How long after its deadline a request may still be answered before it counts as lost."""


def client(url: str, deadline: float) -> aiohttp.ClientSession:
    """An HTTP client with room for any number of requests at once.

    Of the clients at hand it costs least; what sends the load should not be what is measured.
    """
    return aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=10),
        timeout=aiohttp.ClientTimeout(total=deadline + GRACE_SECONDS),
    )
