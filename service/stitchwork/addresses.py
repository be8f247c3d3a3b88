"""Addresses of clients, those that the service listens on, and URLs without their secrets."""

import ipaddress
import re
from typing import Final

_PASSWORD: Final = re.compile(r"(?P<start>.*?//[^/@:?]*):(?P<password>.*)@", re.DOTALL)
_PORT: Final = re.compile(r"//[^/@:?]*:\d{1,5}(,[^/@?]*)?(/|$)")
_HTTP: Final = re.compile(r"([^/]*:)?https?://")
_SECRET_OPTION: Final = re.compile(r"[^?&=]*(password|passwd|secret|token|api_?key)", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether a host is reached from its own machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_mapping(address: str) -> str:
    """An IPv4 address as such, which a socket for both families names as `::ffff:a.b.c.d`."""
    return address.removeprefix("::ffff:") if "." in address else address


def without_password(url: str) -> str:
    """A URL as messages name it: without its password, and without options that hold a secret.

    A password may have characters that its user did not escape.
    """
    location, mark, query = url.rpartition("?")
    if not mark or "=" not in query or ("@" in query and not _PORT.search(location)):
        location, mark, query = url, "", ""
    match = _PASSWORD.match(location)
    # Only paths of HTTP have an @.
    if match and not (_HTTP.match(location) and _PORT.search(location)):
        location = f"{match['start']}@{location[match.end() :]}"
    location, mark, query = f"{location}{mark}{query}".partition("?")
    options = [part for part in query.split("&") if not _SECRET_OPTION.match(part.split("=")[0])]
    return f"{location}{mark if any(options) or not query else ''}{'&'.join(options)}"
