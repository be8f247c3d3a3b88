"""What is refused anyway is refused before its body is read, however the client sends it."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.support import machine
from tests.support.running_service import running
from tests.support.waiting import wait_until

KEY: Final = "an-admin-key-of-32-characters-or-more"
MAX_INFLIGHT: Final = 1_000_000
SIZE: Final = 600_000
"""Of a body: two of them are more than `MAX_INFLIGHT`."""
PARTS: Final = {
    "after permission": b"Expect: 100-continue\r\nContent-Length: %d\r\n" % SIZE,
    "slowly": b"Content-Length: %d\r\n" % SIZE,
    "in chunks": b"Transfer-Encoding: chunked\r\n",
}
"""Ways to send a body, with their headers."""
ENCODER_PATHS: Final = (
    "/embed/t",
    "/stitch/t/h",
    "/v2/models/embed:t/infer",
    "/v2/models/stitch:t:h/infer",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/tei/t/embed",
    "/tei/t",
    "/tei/t/tokenize",
    "/tei/t/decode",
)
ROW_PATHS: Final = (
    "/translate",
    "/classify/h",
    "/v2/models/translate:t:t/infer",
    "/v2/models/classify:h/infer",
    "/spaces/t/anchors/nearest",
    "/anchors/choose",
    "/compatibility/t/h",
)
REGISTRATION_PATHS: Final = ("/spaces", "/heads")


class Answer(NamedTuple):
    """The first response to a request; its status is 100 if the body is wanted."""

    status: int
    body: Any


class Guarded:
    """A service without a worker that requires keys, with a space `t` and a head `h`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {KEY}"}

    def dial(self) -> socket.socket:
        """A connection."""
        where = urlsplit(self.url)
        address = where.hostname or "", where.port or 0
        return socket.create_connection(address, timeout=machine.deadline(60))

    def begin(self, path: str, sending: str, *, key: str = KEY, media: str = "") -> bytes:
        """The headers of a request and, unless it waits for permission, the start of its body."""
        lines = [f"POST {path} HTTP/1.1", "Host: localhost"]
        lines += [f"Content-Type: {media}"] if media else []
        lines += [f"Authorization: Bearer {key}"] if key else []
        start = {"after permission": b"", "slowly": b"[", "in chunks": b"1\r\n[\r\n"}[sending]
        return "\r\n".join([*lines, ""]).encode() + PARTS[sending] + b"\r\n" + start

    def post(self, path: str, sending: str, **options: str) -> Answer:
        """Begin a request, and wait for the answer without sending more."""
        with closing(self.dial()) as connection:
            connection.sendall(self.begin(path, sending, **options))
            # Not `http.client`'s own loop, which skips 100.
            with connection.makefile("rb") as stream:
                status = int(stream.readline().split()[1])
                if status == 100:
                    return Answer(status, None)
                headers = http.client.parse_headers(stream)
                return Answer(status, json.loads(stream.read(int(headers["content-length"]))))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with running(
        workers=0,
        STITCHWORK_REQUIRE_KEYS="true",
        STITCHWORK_ADMIN_KEY=KEY,
        STITCHWORK_MAX_INFLIGHT_BODY_BYTES=str(MAX_INFLIGHT),
        STITCHWORK_HEADER_TIMEOUT_SECONDS=str(machine.deadline(60)),
    ) as service:
        guarded = Guarded(service.url)
        encoder = {"kind": "transformers", "model": "/models/none"}
        space = {"anchor_set": "T", "anchors": np.eye(4).tolist(), "encoder": encoder}
        head = {"space": "t", "weight": np.eye(2, 4).tolist(), "labels": ["a", "b"]}
        with httpx.Client(base_url=service.url, headers=guarded.headers, timeout=60) as client:
            assert client.put("/spaces/t", json=space).status_code == 201
            assert client.put("/heads/h", json=head).status_code == 201
        yield guarded


@pytest.mark.parametrize("sending", PARTS)
def test_request_without_a_key_is_refused_before_its_body_is_read(
    guarded: Guarded, sending: str
) -> None:
    for path in (*ENCODER_PATHS, *ROW_PATHS, *REGISTRATION_PATHS, "/none"):
        assert guarded.post(path, sending, key="").status == 401, path
        assert guarded.post(path, sending, key="another-key").status == 401, path


@pytest.mark.parametrize("sending", PARTS)
def test_request_for_a_worker_is_refused_before_its_body_is_read_if_there_is_none(
    guarded: Guarded, sending: str
) -> None:
    for path in ENCODER_PATHS:
        answer = guarded.post(path, sending)
        assert answer.status == 503, (path, answer)
        assert "worker" in json.dumps(answer.body), path


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/embed/none", ""),
        ("/stitch/t/none", ""),
        ("/stitch/none/h", ""),
        ("/classify/none", ""),
        ("/classify/h?space=none", "application/x-npy"),
        ("/translate?source=t&target=none", "application/x-npy"),
        ("/translate?source=none&target=t", "application/vnd.safetensors"),
        ("/v2/models/embed:none/infer", ""),
        ("/v2/models/embed:t:none/infer", ""),
        ("/v2/models/stitch:t:none/infer", ""),
        ("/v2/models/translate:none:t/infer", ""),
        ("/v2/models/classify:none/infer", ""),
        ("/tei/none/embed", ""),
        ("/tei/t->none/embed", ""),
        ("/tei/none/tokenize", ""),
        ("/spaces/none/anchors/nearest", ""),
        ("/anchors/choose?space=none", "application/x-npy"),
        ("/compatibility/t/none", ""),
    ],
)
def test_request_for_an_unknown_space_or_head_is_refused_before_its_body_is_read(
    guarded: Guarded, path: str, media: str
) -> None:
    for sending in PARTS:
        answer = guarded.post(path, sending, media=media)
        assert answer.status == 404, (sending, answer)
        assert "none" in json.dumps(answer.body)


def test_request_is_refused_before_its_body_is_read_if_there_is_no_room_for_it(
    guarded: Guarded,
) -> None:
    paths = (*ROW_PATHS, *REGISTRATION_PATHS)
    for path in paths:
        assert guarded.post(path, "after permission").status == 100, path
    with closing(guarded.dial()) as first:
        body = b" " * (SIZE - 1)
        first.sendall(guarded.begin("/translate", "slowly") + body[1:])
        wait_until("it has arrived", partial(is_full, guarded))
        for path in (*paths, *ENCODER_PATHS):
            for sending in ("after permission", "slowly"):
                answer = guarded.post(path, sending)
                assert answer.status == 429, (path, answer)
                assert "max_inflight_body_bytes" in json.dumps(answer.body)
    wait_until("its room is free", lambda: not is_full(guarded))


def is_full(guarded: Guarded) -> bool:
    """Whether a body is refused for want of room."""
    return guarded.post("/translate", "after permission").status == 429
