"""What the tests of the page register: a set of texts, two spaces on it, and a head."""

from collections.abc import Mapping
from typing import Any, Final

import httpx
import numpy as np

from tests.support import machine
from tests.support.waiting import wait_until

KEY: Final = "a-key-of-32-characters-that-only-this-test-knows"
HEADERS: Final = {"Authorization": f"Bearer {KEY}"}
"""A service without keys ignores it."""
SCRIPT: Final = "<script>document.title='changed'</script>"
ANCHORS: Final = [
    f"{thing} number {i}" for i in range(32) for thing in ("my lost card", "a late parcel")
]
"""So alike that other texts are not covered."""
SAMPLE: Final = [
    (f"{before}{text}", label)
    for before in ("", "please: ", "again, ", "hello, ", "sorry, ", "well, ")
    for text, label in (
        ("my card is gone", SCRIPT),
        ("somebody took my card", SCRIPT),
        ("where is the parcel", "parcel"),
        ("has my order been sent", "parcel"),
    )
]
"""Texts and their labels."""


def connect(url: str) -> httpx.Client:
    """A client of the API."""
    return httpx.Client(base_url=url, headers=HEADERS, timeout=machine.deadline(60))


def request(url: str, method: str, path: str, body: Any = None) -> Any:
    """JSON of the API."""
    with connect(url) as http:
        response = http.request(method, path, json=body)
    assert response.status_code in (200, 201, 202), response.text
    return response.json()


def wait_for(url: str, path: str) -> Any:
    """The record of a registration, once it has ended."""
    record: dict[str, Any] = {}

    def has_ended() -> bool:
        record.update(request(url, "GET", path))
        return bool(record["status"] != "pending")

    wait_until(f"{path} has ended", has_ended)
    assert record["status"] == "ready", record
    return record


def register_texts(url: str, encoder: Mapping[str, Any]) -> None:
    """Register spaces page-encoder and page-rows on page-texts, and a head in each.

    Args:
        url: The service.
        encoder: The encoder of the first.
    """
    body = {"modality": "text", "items": ANCHORS}
    request(url, "PUT", "/anchor-sets/page-texts", body)
    request(url, "PUT", "/spaces/page-encoder", {"anchor_set": "page-texts", "encoder": encoder})
    space = wait_for(url, "/spaces/page-encoder")
    rows = request(url, "POST", "/embed/page-encoder", {"items": ANCHORS})["embeddings"]
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(space["dim"], space["dim"])))[0]
    anchors = (np.array(rows) @ turn).tolist()
    request(url, "PUT", "/spaces/page-rows", {"anchor_set": "page-texts", "anchors": anchors})
    texts, labels = zip(*SAMPLE[:4], strict=True)
    weight = np.random.default_rng(4).normal(size=(2, space["dim"])).tolist()
    head = {"space": "page-rows", "weight": weight, "labels": ["left", SCRIPT]}
    request(url, "PUT", "/heads/page-side", head)
    fit = {"items": texts, "labels": labels}
    request(url, "PUT", "/heads/page-topic", {"space": "page-encoder", "fit": fit})
    wait_for(url, "/heads/page-topic")
