"""Images by URL: what is fetched, what is refused, and which addresses are never connected to."""

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from starlette.testclient import TestClient

from stitchwork.api.app import create_app
from stitchwork.api.image_urls import ImageFetcher, is_public
from stitchwork.bootstrap.api import check_keys, make_app_state
from stitchwork.errors import InputTooLargeError, InvalidInputError, QueueFullError
from stitchwork.redis.client import RedisClient
from stitchwork.resources import Input
from stitchwork.settings import Settings
from tests.integration.api.test_refusals import check
from tests.support.servers import ServerProcess

IMAGE = b"\x89PNG, or so it says" * 100
MAX_BYTES = 10_000
LIMITS = ("max_image_url_bytes", "image_url_timeout_seconds")
"""Settings whose limits are tested here."""


class Handler(BaseHTTPRequestHandler):
    """A host with an image, and with paths that fail."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        match self.path:
            case "/image":
                self._respond(200, IMAGE)
            case "/large":
                self._respond(200, bytes(MAX_BYTES + 1))
            case "/elsewhere":
                self._respond(302, b"", Location=f"https://{self.headers['Host']}/image")
            case "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"a")
                self.server.released.wait(30)  # type: ignore[attr-defined]
            case _:
                self._respond(404, b"")

    def _respond(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def host(certificates: Path) -> Iterator[str]:
    """An HTTPS server of images, as `address:port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.released = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.released.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()


@pytest.fixture
def fetcher(host: str, certificates: Path) -> ImageFetcher:
    """A fetcher that allows loopback addresses and trusts the server."""
    return trusting(certificates, [host])


def trusting(
    certificates: Path,
    hosts: list[str],
    *,
    is_allowed: Callable[[str], bool] = lambda _: True,
    max_inflight_bytes: int = 1 << 20,
) -> ImageFetcher:
    tls = ssl.create_default_context(cafile=certificates / "ca.pem")
    return ImageFetcher(
        hosts,
        max_urls=3,
        max_bytes=MAX_BYTES,
        max_inflight_bytes=max_inflight_bytes,
        timeout_seconds=2.0,
        is_allowed=is_allowed,
        tls=tls,
    )


def fetched(fetcher: ImageFetcher, *items: str | bytes, modality: Any = "image") -> list[Input]:
    async def run() -> list[Input]:
        async with fetcher.by_value(list(items), modality) as values:
            return list(values)

    return asyncio.run(run())


def test_image_urls_are_replaced_by_their_images_in_order(fetcher: ImageFetcher, host: str) -> None:
    url = f"https://{host}/image"
    assert fetched(fetcher, "aGk=", url, b"file", url) == ["aGk=", IMAGE, b"file", IMAGE]


def test_text_that_looks_like_a_url_is_not_fetched(fetcher: ImageFetcher, host: str) -> None:
    before = len(Handler.paths)
    text = f"https://{host}/image"
    assert fetched(fetcher, text, modality="text") == [text]
    assert len(Handler.paths) == before


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/none", InvalidInputError, "expected status 200, got 404"),
        ("/elsewhere", InvalidInputError, "expected status 200, got 302"),
        ("/large", InputTooLargeError, "10000 bytes (max_image_url_bytes)"),
        ("/slow", InvalidInputError, "within 2 seconds (image_url_timeout_seconds)"),
    ],
)
def test_image_url_that_fails_is_refused_with_its_pointer(
    fetcher: ImageFetcher, host: str, path: str, error: type[InvalidInputError], message: str
) -> None:
    before = len(Handler.paths)
    with pytest.raises(error, match=re.escape(message)) as raised:
        fetched(fetcher, "aGk=", f"https://{host}{path}")
    assert raised.value.pointer == "/items/1"
    # No redirect was followed.
    assert Handler.paths[before:] == [path]


def test_more_image_urls_than_max_items_are_refused_unfetched(
    fetcher: ImageFetcher, host: str
) -> None:
    before = len(Handler.paths)
    with pytest.raises(InputTooLargeError, match=r"at most 3 items \(max_items\), got 4"):
        fetched(fetcher, *[f"https://{host}/image"] * 4)
    assert len(Handler.paths) == before


def test_inflight_bytes_of_images_are_bounded_and_released(host: str, certificates: Path) -> None:
    fetcher = trusting(certificates, [host], max_inflight_bytes=2 * len(IMAGE))
    urls: list[str | bytes] = [f"https://{host}/image"] * 2

    async def run() -> None:
        async with fetcher.by_value(urls, "image"):
            with pytest.raises(QueueFullError, match="max_inflight_body_bytes"):
                async with fetcher.by_value(urls[:1], "image"):
                    raise AssertionError("the limit is not enforced")
        async with fetcher.by_value(urls, "image") as values:
            assert values == [IMAGE, IMAGE]

    asyncio.run(run())


@contextmanager
def unreached_address() -> Iterator[str]:
    """The address of a server on loopback; fails if anything connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(TimeoutError):
            server.accept()


def test_host_with_a_private_address_is_not_connected_to(certificates: Path) -> None:
    with unreached_address() as address:
        port = address.split(":")[1]
        fetcher = trusting(certificates, ["*"], is_allowed=is_public)
        for name in (address, f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}", f"[::1]:{port}"):
            with pytest.raises(InvalidInputError, match="public addresses only"):
                fetched(fetcher, f"https://{name}/image")


def test_host_with_an_untrusted_certificate_gets_no_request(host: str, certificates: Path) -> None:
    before = len(Handler.paths)
    fetcher = ImageFetcher(
        [host],
        max_urls=3,
        max_bytes=MAX_BYTES,
        max_inflight_bytes=MAX_BYTES,
        timeout_seconds=2.0,
        is_allowed=lambda _: True,
    )
    with pytest.raises(InvalidInputError, match="expected a response, got ConnectError"):
        fetched(fetcher, f"https://{host}/image")
    assert len(Handler.paths) == before


def test_image_url_that_is_not_allowed_is_refused_unfetched(certificates: Path) -> None:
    with unreached_address() as address:
        fetcher = trusting(certificates, [address, "*.example.com"])
        for url in (
            f"http://{address}/image",
            f"https://me@{address}/image",
            f"https://{address}.example.org/image",
            f"https://x.example.com@{address}/image",
            f"https://{address}\\@x.example.com",
            f"https://{address}/a b",
            f"https://{address}/\N{SNOWMAN}",
            "https://example.com/image",
            "https://x.example.com:8443/image",
            "https:///image",
            "https://[::1/image",
            f"https://{address}:port/image",
            f"https://{address}:99999/image",
            "file:///etc/passwd",
            "data:image/png;base64,aGk=",
        ):
            with pytest.raises(InvalidInputError) as error:
                fetched(fetcher, url)
            assert error.value.code == "url-not-allowed", url


@pytest.mark.parametrize("host", [f"{'a' * 64}.example.com", "a..example.com", "-.example.com"])
def test_host_that_cannot_be_encoded_is_refused(certificates: Path, host: str) -> None:
    fetcher = trusting(certificates, ["*.example.com"])
    with pytest.raises(InvalidInputError, match="the image cannot be fetched") as error:
        fetched(fetcher, f"https://{host}/image")
    assert (error.value.code, error.value.pointer) == ("url-unavailable", "/items/0")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:a00:1::", False),
        ("64:ff9b:1::a00:1", False),
        ("64:ff9b:1:ffff::1", False),
        ("fec0::1", False),
        ("feff:ffff::1", False),
        ("::5db8:d822", False),
        ("::a00:1", False),
        ("::ffff:0:a00:1", False),
        ("192.0.0.1", False),
        ("192.0.0.9", False),
        ("192.88.99.1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("2a00:1450:4001::1", True),
    ],
)
def test_is_public_of_address(address: str, expected: bool) -> None:
    assert is_public(address) is expected


@pytest.mark.parametrize(
    ("hosts", "offline", "code"),
    [
        ("127.0.0.1:*", False, "url-unavailable"),
        ("example.com", False, "url-not-allowed"),
        ("", False, "url-not-allowed"),
        ("127.0.0.1:*", True, "url-not-allowed"),
    ],
    ids=["private address", "other host", "no hosts", "offline"],
)
def test_image_urls_in_requests_are_checked(
    registry_server: RedisClient, queue_process: ServerProcess, hosts: str, offline: bool, code: str
) -> None:
    """An allowed host with a private address, a host that is not allowed, and disabled URLs."""
    spec = {"kind": "timm", "model": "tf_efficientnet_lite0"}
    body = {"anchor_set": "I", "anchors": [[1.0, 0.0], [0.0, 1.0]], "encoder": spec}
    urls = {"redis_url": registry_server.url, "queue_url": queue_process.url}
    settings = Settings.model_validate({**urls, "image_url_hosts": hosts, "offline": offline})
    state = make_app_state(settings)
    check_keys(state.api_keys, settings.host)
    with unreached_address() as address, TestClient(create_app(state)) as http:
        assert http.put("/spaces/i", json=body).status_code == 201
        response: Any = http.post("/embed/i", json={"items": ["aGk=", f"https://{address}/a.png"]})
        check(response, 422, "/items/1")
        assert response.json()["code"] == code
