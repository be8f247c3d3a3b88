"""Listening sockets: both families, paths, and what is in the way."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from stitchwork.errors import UnavailableError
from stitchwork.processes.listener import listen, listen_on_path


def test_any_address_of_ipv6_takes_connections_of_both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with listen("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


def test_any_address_of_ipv6_is_that_of_ipv4_where_there_is_no_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Socket(socket.socket):
        """What a kernel that was started without IPv6 opens."""

        def __init__(self, family: int = socket.AF_INET, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **options)

    monkeypatch.setattr(socket, "socket", Socket)
    with listen("::", 0) as listener:
        address = listener.getsockname()
        assert address[0] == "0.0.0.0"  # noqa: S104
        socket.create_connection(("127.0.0.1", address[1])).close()
    with pytest.raises(UnavailableError, match="not supported"):
        listen("::1", 0)


def test_port_in_use_is_an_error_with_the_reason() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.fixture
def path() -> Iterator[Path]:
    # Paths of Unix sockets are short, and those of pytest's folders are not.
    with TemporaryDirectory(prefix="sw") as folder:
        yield Path(folder) / "api.sock"


def test_socket_on_a_path_is_removed_at_the_end(path: Path) -> None:
    with listen_on_path(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.exists()


def test_socket_of_a_dead_process_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    with listen_on_path(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_path_in_use_is_an_error(path: Path) -> None:
    with listen_on_path(path):
        with pytest.raises(UnavailableError, match="Address already in use"), listen_on_path(path):
            pass
        # The first one still listens.
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    path.write_text("a file of somebody")
    with pytest.raises(UnavailableError, match="Address already in use"), listen_on_path(path):
        pass
    assert path.read_text() == "a file of somebody"
