"""A connection of the launcher to the API that it has started, whose certificate it knows."""

import http.client
import socket
import ssl
from pathlib import Path
from typing import Final

HANDSHAKE_SECONDS: Final = 2.0
"""Time for one attempt with TLS, which waits for the API before there is a response to wait for."""

Address = tuple[str, int] | Path


class ApiConnection(http.client.HTTPConnection):
    """A connection to a host and port, or to a Unix socket.

    Args:
        address: Where the API listens.
        encrypted: Whether by TLS. The certificate is not checked: it names the address by which
            others reach the API.
        timeout: Seconds.
    """

    def __init__(self, address: Address, *, encrypted: bool, timeout: float) -> None:
        host, port = ("localhost", 0) if isinstance(address, Path) else address
        super().__init__(
            host, port, timeout=min(timeout, HANDSHAKE_SECONDS) if encrypted else timeout
        )
        self._address = address
        self._encrypted = encrypted

    def connect(self) -> None:
        """Connect, and begin TLS."""
        if isinstance(self._address, Path):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._address))
        else:
            super().connect()
        if self._encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)
