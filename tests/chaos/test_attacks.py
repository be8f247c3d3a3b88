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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
CALLS = 8
"""Calls of the honest caller, calm and under attack."""
TEXTS = 24
"""Long texts of each of its calls, so that it takes about as long as one batch of others."""
IMAGE_MODEL = "tf_efficientnet_lite0"
SIDE = 8_000
"""An image of 64 megapixels, which a WebP file of 100 KB has."""


@dataclass
class Guarded:
    """A service with one worker, a space `t` of texts and `i` of images, and two keys."""

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


@contextmanager
def attack(
    guarded: Guarded, requests: list[tuple[str, bytes]], threads: int
) -> Iterator[Counter[int]]:
    """Meanwhile these requests are sent again and again by the bad key."""
    stop, statuses = threading.Event(), Counter[int]()
    headers = {"Content-Type": "application/json"}

    def send(number: int) -> None:
        path, body = requests[number % len(requests)]
        with guarded.client("bad") as http:
            while not stop.is_set():
                response = http.post(path, content=body, headers=headers)
                statuses[response.status_code] += 1
                if response.status_code == 429:
                    stop.wait(min(1.0, float(response.headers["retry-after"])))

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(send, number) for number in range(threads)]
        try:
            wait_until("the attack has begun", lambda: sum(statuses.values()) >= threads / 2, 120)
            yield statuses
        finally:
            stop.set()
        for future in futures:
            future.result()


@cache
def huge_image() -> str:
    return encoded(file(Image.new("RGB", (SIDE, SIDE), (3, 4, 5)), "WEBP"))


def attacks() -> list[tuple[str, bytes]]:
    """What each attacker sends: most of them texts, and some of them images."""
    long = {"items": ["word " * 10_240] * 64, "truncate": True}
    unbroken = {"items": ["x" * 51_200] * 64, "truncate": True}
    flood = {"items": ["word " * 300] * 64, "truncate": True}
    images = ("/embed/i", orjson.dumps({"items": [huge_image()] * 64}))
    texts = [("/embed/t", orjson.dumps(body)) for body in (long, unbroken, flood, flood, flood)]
    return [images, *texts]


def memory(service: ServiceProcess) -> int:
    """Resident bytes of the API and of the worker."""
    names = ("api", "worker")
    return sum(resident(pid) for name, pid in service.pids.items() if name.startswith(names))


def test_attacks_of_one_key_leave_the_service_to_another(guarded: Guarded) -> None:
    """The honest key has a weight of 4; the attackers keep two encoders of one worker busy."""
    requests, pids = attacks(), guarded.running.pids
    with guarded.client("honest") as http:
        # Memory is allocated for what comes, and reused.
        with attack(guarded, requests, ATTACKERS):
            call_honestly(http, 4)
        call_honestly(http, 4)
        base = memory(guarded.running)
        calm = call_honestly(http, CALLS)
        assert calm.statuses == {200: CALLS}
        start = time.monotonic()
        assert http.post("/embed/i", json={"items": [huge_image()]}).is_success
        alone = time.monotonic() - start
        with attack(guarded, requests, ATTACKERS) as statuses:
            attacked = call_honestly(http, CALLS)
    assert guarded.running.pids == pids, "a process has ended"
    assert statuses.keys() <= {200, 429, 504}
    assert attacked.statuses[200] >= 0.9 * CALLS
    # A call waits for the job that is running, and shares the worker's time with another encoder.
    assert attacked.p99 <= 6 * (calm.p99 + alone)
    wait_until("the memory is free again", lambda: memory(guarded.running) <= 1.1 * base)
