"""What commands say where a connection without TLS was cut by a service with TLS."""

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from stitchwork.errors import ErrorCode, UnavailableError

SECONDS: Final = 2.0
"""How long the other side of a handshake may take."""
PORT: Final = 80


def add_tls_hint(error: UnavailableError, url: str) -> None:
    """Add a note to the error of a connection that was cut, if the service speaks TLS there."""
    is_plain = urlsplit(url).scheme == "http"
    if error.code == ErrorCode.CONNECTION_CUT and is_plain and speaks_tls(url):
        error.add_note(f"the service speaks TLS there: use https{url.removeprefix('http')}")


def speaks_tls(url: str) -> bool:
    """Whether a TLS handshake with the host and port of a URL succeeds, with any certificate."""
    address = urlsplit(url)
    host = address.hostname or ""
    context = ssl.create_default_context()
    # Nothing is sent: whether the certificate is trusted does not matter.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, address.port or PORT), SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except OSError:
        return False
