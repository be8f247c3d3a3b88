"""`HTTP_PROXY` and the client: a service on this machine is reached directly."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from stitchwork.client import AsyncStitchwork, Stitchwork
from stitchwork.errors import StitchworkError
from tests.support import machine


class Proxy:
    """A proxy that refuses every request, and counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65_536).partition(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        # A shutdown wakes the thread that accepts, which closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(machine.deadline(30))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_service_on_this_machine_is_reached_directly(proxy: Proxy, url: str, host: str) -> None:
    address = url.replace("127.0.0.1", host)
    with Stitchwork(address, retries=0) as client:
        assert client.info()["name"] == "stitchwork"

    async def info() -> str:
        async with AsyncStitchwork(address, retries=0) as client:
            return str((await client.info())["name"])

    assert asyncio.run(info()) == "stitchwork"
    assert proxy.requests == []


def test_service_on_another_machine_is_reached_by_the_proxy(proxy: Proxy) -> None:
    with (
        Stitchwork("http://models.example.com", retries=0) as client,
        pytest.raises(StitchworkError),
    ):
        client.info()
    assert proxy.requests == [b"GET http://models.example.com/info HTTP/1.1"]
