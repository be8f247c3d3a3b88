"""Attacks of one key that stay within all limits, while another key is served as before."""

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.registry import api_keys
from stitchwork.resources import Scope
from stitchwork.supervisor import ServiceProcess
from tests.support import machine
from tests.support.images import file
from tests.support.memory import resident
from tests.support.running_service import running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.models, pytest.mark.drills, pytest.mark.slow]

ATTACKERS = 24
"""Those that keep the encoders busy."""
PAUSE_SECONDS = 0.5
"""Pause of an attacker after an answer other than 200, or after a large one."""
FILES, LISTS, KEYS, ROWS, WIDTH = 20_000, 1_000_000, 100_000, 256, 4096
"""Sizes of what once stopped the event loop: files, empty lists, keys, rows of a JSON answer."""
CALLS = 8
"""Calls of the honest caller, calm and under attack."""
TEXTS = 24
"""Long texts of each of its calls, so that it takes about as long as one batch of others."""
JSON = "application/json"
IMAGE_MODEL = "tf_efficientnet_lite0"
SIDE = 8_000
"""An image of 64 megapixels, which a WebP file of 100 KB has."""


@dataclass
class Guarded:
    """A service with one worker, a space `t` of texts, `wide` and `i` of images, and two keys."""

    running: ServiceProcess
    keys: dict[str, str]

    def client(self, key: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        limits = httpx.Limits(max_connections=None)
        timeout = machine.deadline(60)
        return httpx.Client(
            base_url=self.running.url, headers=headers, timeout=timeout, limits=limits
        )


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with TemporaryDirectory(prefix="sw") as name:
        folder = Path(name)
        weights = write_efficientnet_lite(IMAGE_MODEL, folder)
        keys, lines = dict[str, str](), list[str]()
        for key, scope in (("owner", Scope.ADMIN), ("honest", Scope.INFER), ("bad", Scope.INFER)):
            weight = 4 if key == "honest" else 1
            keys[key], record = api_keys.new(key, [scope], weight=weight)
            lines.append(api_keys.line(record))
        (folder / "keys").write_text("\n".join(lines))
        settings: Any = {"STITCHWORK_KEY_FILE": str(folder / "keys")}
        with running(roots=(folder, minilm_folder()), **settings) as service:
            guarded = Guarded(service, keys)
            with guarded.client("owner") as http:
                register(http, weights)
            yield guarded


def register(http: httpx.Client, weights: Path) -> None:
    image = {"kind": "timm", "model": IMAGE_MODEL, "weights": str(weights)}
    text = {"kind": "transformers", "model": str(minilm_folder())}
    item = encoded(file(Image.new("RGB", (64, 64), "red")))
    wide = np.random.default_rng(1).normal(size=(8, WIDTH)).tolist()
    assert http.put("/spaces/wide", json={"anchor_set": "T", "anchors": wide}).is_success
    for id_, spec, width, example in (("t", text, 384, "a text"), ("i", image, 1280, item)):
        rows = np.random.default_rng(0).normal(size=(8, width)).tolist()
        body = {"anchor_set": id_.upper(), "anchors": rows, "encoder": spec}
        assert http.put(f"/spaces/{id_}", json=body).status_code == 201
        call = partial(http.post, f"/embed/{id_}", json={"items": [example]})
        wait_until("it embeds", partial(succeeds, call), 120)


def succeeds(call: Callable[[], httpx.Response]) -> bool:
    return call().is_success


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Calls:
    """Statuses and seconds of calls."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return float(np.percentile(self.seconds, 99))


def call_honestly(http: httpx.Client, count: int) -> Calls:
    """Calls of a caller that sends one after the other, and none again."""
    calls = Calls()
    for i in range(count):
        body = {"items": [f"{i} {j} " + "word " * 240 for j in range(TEXTS)], "truncate": True}
        start = time.monotonic()
        response = http.post("/embed/t", json=body)
        calls.seconds.append(time.monotonic() - start)
        calls.statuses[response.status_code] += 1
    return calls


class Attack(NamedTuple):
    """A request that an attacker repeats, and what it may be answered."""

    path: str
    content: bytes
    media: str = JSON
    statuses: frozenset[int] = frozenset({200, 429, 504})
    pause: float = 0.0


@contextmanager
def attack(guarded: Guarded, attacks: list[Attack]) -> Iterator[list[Counter[int]]]:
    """Meanwhile each of these requests is sent again and again by the bad key."""
    stop, outcomes = threading.Event(), [Counter[int]() for _ in attacks]

    def send(number: int) -> None:
        one, statuses = attacks[number], outcomes[number]
        headers = {"Content-Type": one.media, "Accept": JSON}
        with guarded.client("bad") as http:
            while not stop.is_set():
                response = http.post(one.path, content=one.content, headers=headers)
                statuses[response.status_code] += 1
                if response.status_code == 429:
                    stop.wait(min(1.0, float(response.headers["retry-after"])))
                stop.wait(one.pause)

    with ThreadPoolExecutor(len(attacks)) as pool:
        futures = [pool.submit(send, number) for number in range(len(attacks))]
        try:
            wait_until(
                "the attack has begun",
                lambda: sum(map(bool, outcomes)) >= len(attacks) / 2,
                120,
            )
            yield outcomes
        finally:
            stop.set()
        for future in futures:
            future.result()


@cache
def huge_image() -> str:
    return encoded(file(Image.new("RGB", (SIDE, SIDE), (3, 4, 5)), "WEBP"))


def attacks() -> list[Attack]:
    """What the attackers send: most of them texts, some of them images, and four large bodies."""
    long = {"items": ["word " * 10_240] * 64, "truncate": True}
    unbroken = {"items": ["x" * 51_200] * 64, "truncate": True}
    flood = {"items": ["word " * 300] * 64, "truncate": True}
    images = Attack("/embed/i", orjson.dumps({"items": [huge_image()] * 64}))
    texts = [Attack("/embed/t", orjson.dumps(body)) for body in (long, unbroken, *[flood] * 3)]
    return [*[images, *texts] * (ATTACKERS // 6), *large_attacks()]


def large_attacks() -> list[Attack]:
    """Bodies and an answer, within all limits of bytes, that once stopped the event loop."""
    part = b'--b\r\nContent-Disposition: form-data; name="items"; filename="a"\r\n\r\nx\r\n'
    keys = b"{" + b",".join(b'"k%d":1' % number for number in range(KEYS)) + b"}"
    rows = BytesIO()
    np.save(rows, np.random.default_rng(2).normal(size=(ROWS, 384)).astype(np.float32))
    refused: Any = {"statuses": frozenset({413, 422, 429}), "pause": PAUSE_SECONDS}
    form = "multipart/form-data; boundary=b"
    return [
        Attack("/embed/t", part * FILES + b"--b--\r\n", form, **refused),
        Attack("/embed/t", b'{"items": [' + b"[]," * LISTS + b"[]]}", **refused),
        Attack("/embed/t", keys, **refused),
        Attack(
            "/translate?source=t&target=wide",
            rows.getvalue(),
            "application/x-npy",
            pause=PAUSE_SECONDS,
        ),
    ]


def memory(service: ServiceProcess) -> int:
    """Resident bytes of the API and of the worker."""
    names = ("api", "worker")
    return sum(resident(pid) for name, pid in service.pids.items() if name.startswith(names))


def test_attacks_of_one_key_leave_the_service_to_another(guarded: Guarded) -> None:
    """The honest key has a weight of 4; the attackers keep two encoders of one worker busy."""
    requests, pids = attacks(), guarded.running.pids
    with guarded.client("honest") as http:
        # Memory is allocated for what comes, and reused.
        with attack(guarded, requests):
            call_honestly(http, 4)
        call_honestly(http, 4)
        base = memory(guarded.running)
        calm = call_honestly(http, CALLS)
        assert calm.statuses == {200: CALLS}
        start = time.monotonic()
        assert http.post("/embed/i", json={"items": [huge_image()]}).is_success
        alone = time.monotonic() - start
        with attack(guarded, requests) as outcomes:
            attacked = call_honestly(http, CALLS)
    assert guarded.running.pids == pids, "a process has ended"
    for one, statuses in zip(requests, outcomes, strict=True):
        assert statuses.keys() <= one.statuses, (one.path, one.content[:60], statuses)
    assert attacked.statuses[200] >= 0.9 * CALLS
    assert np.median(attacked.seconds) <= 3 * np.median(calm.seconds)
    # The slowest waits for the largest job first, which has begun and is not interrupted.
    assert attacked.p99 <= 3 * calm.p99 + alone
    wait_until("the memory is free again", lambda: memory(guarded.running) <= 1.1 * base)
