"""Addresses that the service listens on."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host is reached from its own machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
