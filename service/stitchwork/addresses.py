"""Addresses of clients, and those that the service listens on."""

import ipaddress


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
