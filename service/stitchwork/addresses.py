"""Addresses of clients, those that the service listens on, and URLs without their secrets."""

import ipaddress
import re
from typing import Final

# What follows a port is no password.
_PASSWORD: Final = re.compile(r"(//[^/@:?]*):(?!\d{1,5}\?)[^/]*@")
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
    """A URL as messages name it: without its password, and without options that hold a secret."""
    location, mark, query = _PASSWORD.sub(r"\1@", url).partition("?")
    options = [part for part in query.split("&") if not _SECRET_OPTION.match(part.split("=")[0])]
    return f"{location}{mark if any(options) or not query else ''}{'&'.join(options)}"
