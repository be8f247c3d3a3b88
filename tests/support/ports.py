"""Ports for servers that cannot say which one they took."""

import random
import socket
from typing import Final

PORTS: Final = range(20_000, 30_000)
"""Below those that systems give to clients and to servers which take any."""


def unused_port() -> int:
    """A port of this machine that nothing listens on, and that no other test is likely to take."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports are in use")
