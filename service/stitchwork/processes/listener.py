"""Listening sockets of the API, on an address or on a path."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stitchwork.errors import UnavailableError

BACKLOG: Final = 2048
ANY_IPV4: Final = "0.0.0.0"  # noqa: S104 what `::` means where there is no IPv6
ANY_IPV6: Final = "::"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that an obstacle shows at once.

    The address `::` takes connections of IPv4 as well, and only those on a system without IPv6.

    Raises:
        UnavailableError: If it cannot listen there.
    """
    if host == ANY_IPV6 and not _has_ipv6():
        host = ANY_IPV4
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(
            address[:2],
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=host == ANY_IPV6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        reason = error.strerror or error
        raise UnavailableError(f"cannot listen on {host}, port {port}: {reason}") from error
    # Connections inherit it. A server that takes over a listening socket by its number cannot
    # always see that it is TCP, leaves Nagle's algorithm on, and each response takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _has_ipv6() -> bool:
    """Whether this system's kernel opens sockets of IPv6."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True


@contextlib.contextmanager
def listen_on_path(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket, which everybody may open who may enter its folder.

    Leaving the context removes it. One that a dead process left there is replaced.

    Raises:
        UnavailableError: If it cannot listen there, or another process does.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"cannot listen on {path}: {error.strerror or error}") from error
    with listener:
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; `bind` refuses every other file."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
