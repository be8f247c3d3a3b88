"""Images by URL: what is fetched, what is not, and that nothing connects where it must not."""

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

import httpx
import pytest

from stitchwork.api.image_urls import ImageFetcher, is_public
from stitchwork.errors import InputTooLargeError, InvalidInputError, QueueFullError
from tests.integration.api.test_refusals import check
from tests.support.running_service import running

IMAGE = b"\x89PNG, or so it says" * 100
MOST = 10_000
LIMITS = ("max_image_url_bytes", "image_url_timeout_seconds")
"""What is tried here."""


class Handler(BaseHTTPRequestHandler):
    """A host of images, and of what is none."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        match self.path:
            case "/image":
                self._answer(200, IMAGE)
            case "/large":
                self._answer(200, bytes(MOST + 1))
            case "/elsewhere":
                self._answer(302, b"", Location=f"https://{self.headers['Host']}/image")
            case "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"a")
                self.server.released.wait(30)  # type: ignore[attr-defined]
            case _:
                self._answer(404, b"")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def host(certificates: Path) -> Iterator[str]:
    """A server of images, as `address:port`."""
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
    """One that takes this machine for public, and trusts the server."""
    return trusting(certificates, [host])


def trusting(
    certificates: Path,
    hosts: list[str],
    *,
    public: Callable[[str], bool] = lambda _: True,
    most_held: int = 1 << 20,
) -> ImageFetcher:
    tls = ssl.create_default_context(cafile=certificates / "ca.pem")
    return ImageFetcher(
        hosts, most=3, max_bytes=MOST, most_held=most_held, seconds=2.0, public=public, tls=tls
    )


def fetched(
    fetcher: ImageFetcher, *items: str | bytes, modality: Any = "image"
) -> list[str | bytes]:
    async def run() -> list[str | bytes]:
        async with fetcher.by_value(list(items), modality) as found:
            return found

    return asyncio.run(run())


def test_urls_are_replaced_in_their_places(fetcher: ImageFetcher, host: str) -> None:
    url = f"https://{host}/image"
    assert fetched(fetcher, "aGk=", url, b"file", url) == ["aGk=", IMAGE, b"file", IMAGE]


def test_a_text_is_no_url(fetcher: ImageFetcher, host: str) -> None:
    before = len(Handler.asked)
    text = f"https://{host}/image"
    assert fetched(fetcher, text, modality="text") == [text]
    assert len(Handler.asked) == before


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("/none", InvalidInputError, "answered 404, not 200"),
        ("/elsewhere", InvalidInputError, "answered 302, not 200"),
        ("/large", InputTooLargeError, "10000 bytes (max_image_url_bytes)"),
        ("/slow", InvalidInputError, "within 2 seconds (image_url_timeout_seconds)"),
    ],
)
def test_what_does_not_come(
    fetcher: ImageFetcher, host: str, path: str, kind: type[InvalidInputError], said: str
) -> None:
    before = len(Handler.asked)
    with pytest.raises(kind, match=re.escape(said)) as error:
        fetched(fetcher, "aGk=", f"https://{host}{path}")
    assert error.value.pointer == "/items/1"
    # No redirect was followed.
    assert Handler.asked[before:] == [path]


def test_more_than_may_be_asked_for(fetcher: ImageFetcher, host: str) -> None:
    before = len(Handler.asked)
    with pytest.raises(InputTooLargeError, match=r"at most 3 items \(max_items\), got 4"):
        fetched(fetcher, *[f"https://{host}/image"] * 4)
    assert len(Handler.asked) == before


def test_what_is_held_is_bounded_and_let_go_of(host: str, certificates: Path) -> None:
    fetcher = trusting(certificates, [host], most_held=2 * len(IMAGE))
    urls: list[str | bytes] = [f"https://{host}/image"] * 2

    async def run() -> None:
        async with fetcher.by_value(urls, "image"):
            with pytest.raises(QueueFullError, match="max_inflight_body_bytes"):
                async with fetcher.by_value(urls[:1], "image"):
                    raise AssertionError("more than may be held")
        async with fetcher.by_value(urls, "image") as found:
            assert found == [IMAGE, IMAGE]

    asyncio.run(run())


@contextmanager
def silent() -> Iterator[str]:
    """A port of this machine that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_address_that_is_not_public_is_not_connected_to(certificates: Path) -> None:
    with silent() as there:
        port = there.split(":")[1]
        fetcher = trusting(certificates, ["*"], public=is_public)
        for name in (there, f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}", f"[::1]:{port}"):
            with pytest.raises(InvalidInputError, match="not public"):
                fetched(fetcher, f"https://{name}/image")


def test_a_server_that_is_not_who_it_says_is_not_asked(host: str, certificates: Path) -> None:
    before = len(Handler.asked)
    fetcher = ImageFetcher(
        [host], most=3, max_bytes=MOST, most_held=MOST, seconds=2.0, public=lambda _: True
    )
    with pytest.raises(InvalidInputError, match="ConnectError at its host"):
        fetched(fetcher, f"https://{host}/image")
    assert len(Handler.asked) == before


def test_what_may_not_be_followed(certificates: Path) -> None:
    with silent() as there:
        fetcher = trusting(certificates, [there, "*.example.com"])
        for url in (
            f"http://{there}/image",
            f"https://me@{there}/image",
            f"https://{there}.example.org/image",
            f"https://x.example.com@{there}/image",
            f"https://{there}\\@x.example.com",
            f"https://{there}/a b",
            f"https://{there}/\N{SNOWMAN}",
            "https://example.com/image",
            "https://x.example.com:8443/image",
            "https:///image",
            "https://[::1/image",
            "file:///etc/passwd",
            "data:image/png;base64,aGk=",
        ):
            with pytest.raises(InvalidInputError) as error:
                fetched(fetcher, url)
            assert error.value.code == "url-not-allowed", url


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
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected


def test_hosts_that_are_named_are_still_looked_at_over_http() -> None:
    """And a URL that is not allowed, or is off, says so; nothing connects."""
    spec = {"kind": "timm", "model": "tf_efficientnet_lite0"}
    body = {"anchor_set": "I", "anchors": [[1.0, 0.0], [0.0, 1.0]], "encoder": spec}
    with silent() as there:
        for hosts, offline, code in (
            ("127.0.0.1:*", "false", "url-unavailable"),
            ("example.com", "false", "url-not-allowed"),
            ("", "false", "url-not-allowed"),
            ("127.0.0.1:*", "true", "url-not-allowed"),
        ):
            with (
                running(0, STITCHWORK_IMAGE_URL_HOSTS=hosts, STITCHWORK_OFFLINE=offline) as found,
                httpx.Client(base_url=found.url) as http,
            ):
                assert http.put("/spaces/i", json=body).status_code == 201
                answer = http.post("/embed/i", json={"items": ["aGk=", f"https://{there}/a.png"]})
                check(answer, 422, "/items/1")
                assert answer.json()["code"] == code
