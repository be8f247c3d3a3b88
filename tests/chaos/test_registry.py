"""Registrations under faults: processes killed in mid-write, replicas that race, broken models."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from stitchwork.errors import RegistryUnavailableError
from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.frame import Frame
from stitchwork.redis.client import RedisClient
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats
from tests.chaos.conftest import SPEC, TextService
from tests.conftest import Pair
from tests.support.cluster import BoundedClient, Cluster, is_refusal, rows_of, version_of
from tests.support.proxy import Chunk, Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.drills

VARIANTS = 6
REPLACEMENTS = 30
READERS = 8
ROUNDS = 20


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """A wire to the registry server."""
    found = Proxy(cluster.folder / "tap.sock", cluster.registry.path)
    yield found
    found.close()


def variant(pair: Pair, i: int) -> Floats:
    """Anchors of y as another release of its encoder would put them."""
    turned, _ = np.linalg.qr(np.random.default_rng(i).normal(size=(32, 32)))
    found: Floats = (pair.y_anchors @ turned).astype(np.float32)
    return found


def translated(pair: Pair, anchors: Floats) -> Floats:
    """What /translate must answer for x → y with these anchors of y."""
    found: Floats = np.asarray(
        compose(
            "ridge",
            FittedSpace(Frame.from_anchors(pair.x_anchors)),
            FittedSpace(Frame.from_anchors(anchors)),
        )
        .apply(pair.x)
        .rows
    )
    return found


def stored_anchors(cluster: Cluster, id_: str) -> tuple[str, Floats]:
    """The version that the registry server holds under an id, and its anchors."""
    server = RedisClient(cluster.registry.url, 5.0, RegistryUnavailableError)
    try:
        registry = Registry(server, durable=False, stale_seconds=0)
        (record,), _ = registry.spaces.ready(id_)
        return record.version, registry.spaces.arrays(id_, record.version)["anchors"]
    finally:
        server.close()


UPLOAD, COMMIT = b"'HSET', KEYS[1]", b"local function take()"
"""What only the script of an upload says, and only that of a commit."""
CUTS: list[tuple[str, Callable[[Proxy], None], bool]] = [
    ("before it is read what stands", lambda proxy: proxy.cut(b"HMGET", 0), False),
    ("before the upload", lambda proxy: proxy.cut(UPLOAD, 0), False),
    ("in mid-upload", lambda proxy: proxy.cut(UPLOAD, 5_000), False),
    ("before the commit", lambda proxy: proxy.cut(COMMIT, 0), False),
    ("in mid-commit", lambda proxy: proxy.cut(COMMIT, 1_500), False),
    ("before the answer to the commit", lambda proxy: proxy.hush(COMMIT), True),
]


def test_api_killed_during_put_leaves_the_old_or_the_new_version(
    cluster: Cluster, proxy: Proxy, pair: Pair
) -> None:
    """The old or the new version stands afterwards, whole, and writes go on."""
    with BoundedClient(cluster.api().url) as witness, ThreadPoolExecutor(1) as pool:
        assert witness.put_space("x", pair.x_anchors).status_code == 201
        stands = variant(pair, 0)
        assert witness.put_space("y", stands).status_code == 201
        for i, (where, cut, replaced) in enumerate(CUTS, 1):
            proxy.mend()
            victim = cluster.api(STITCHWORK_REDIS_URL=proxy.url)
            cut(proxy)
            with BoundedClient(victim.url) as client:
                held = pool.submit(client.put_space, "y", variant(pair, i))
                assert proxy.reached.wait(30), where
                victim.kill()
                with pytest.raises(httpx.TransportError):
                    held.result(30)
            stands = variant(pair, i) if replaced else stands
            version, anchors = stored_anchors(cluster, "y")
            np.testing.assert_array_equal(anchors, stands, err_msg=where)
            told = witness.translate(pair.x, "x", "y")
            assert version_of(told, "Target") == version, where
            np.testing.assert_allclose(rows_of(told), translated(pair, stands), atol=1e-4)
        assert witness.put_space("y", variant(pair, 9)).json()["outcome"] == "replaced"


def test_write_is_acknowledged_after_waitaof_confirms_it(
    cluster: Cluster, proxy: Proxy, pair: Pair
) -> None:
    """WAITAOF follows the write on its connection, and is answered ≥ 1 before the 201."""
    if not cluster.binary.has_waitaof:
        pytest.skip("Redis 7.0 has no WAITAOF")
    with BoundedClient(cluster.api(STITCHWORK_REDIS_URL=proxy.url).url) as client:
        calls: list[tuple[Callable[[], httpx.Response], int]] = [
            (lambda: client.put_space("x", pair.x_anchors), 201),
            (lambda: client.put_space("x", pair.x_anchors), 200),
            (lambda: client.put_space("x", pair.y_anchors), 200),
            (lambda: client.send("DELETE", "/spaces/x"), 204),
        ]
        for send, status in calls:
            proxy.mend()
            assert send().status_code == status
            heard = list(proxy.passed)
            line = next(p.line for p in heard if p.to_server and b"WAITAOF" in p.data)
            sent, answered = (_bytes(heard, line, to_server) for to_server in (True, False))
            commands = _commands(sent)
            at = max(i for i, command in enumerate(commands) if command[0] == b"EVAL")
            assert commands[at + 1][:3] == [b"WAITAOF", b"1", b"0"], "right after the commit"
            assert b":1\r\n*2\r\n:1\r\n:0\r\n" in answered, "committed, and in the file"


@pytest.mark.parametrize(
    ("name", "value"), [("appendfsync", "no"), ("appendonly", "no")], ids=["zero", "error"]
)
def test_write_that_waitaof_does_not_confirm_is_refused(
    cluster: Cluster, proxy: Proxy, pair: Pair, name: str, value: str
) -> None:
    """Where WAITAOF answers 0, or that there is no file, the caller gets 503."""
    if not cluster.binary.has_waitaof:
        pytest.skip("Redis 7.0 has no WAITAOF")
    api = cluster.api(STITCHWORK_REDIS_URL=proxy.url, STITCHWORK_REDIS_TIMEOUT_SECONDS="1")
    with BoundedClient(api.url) as client:
        assert client.put_space("before", pair.x_anchors).status_code == 201
        cluster.records.config_set(name, value)
        proxy.mend()
        for id_ in ("new", "before"):
            told = client.put_space(id_, pair.x_anchors)
            assert told.status_code == 503
            assert is_refusal(told)
        # Not the last of all: a connection that begins meanwhile is answered as well.
        answer = b"*2\r\n:0\r\n:0\r\n" if name == "appendfsync" else b"disabled.\r\n"
        assert any(p.data.endswith(answer) for p in proxy.passed if not p.to_server)
        # The server is there all the same, and only what asks for a promise suffers.
        assert client.translate(pair.x, "before", "before").status_code == 200
        cluster.records.config_set(name, {"appendfsync": "always", "appendonly": "yes"}[name])
        wait_until("it promises again", lambda: client.put_space("new", pair.x_anchors).is_success)


def _bytes(heard: list[Chunk], line: int, to_server: bool) -> bytes:
    return b"".join(p.data for p in heard if (p.line, p.to_server) == (line, to_server))


def _commands(sent: bytes) -> list[list[bytes]]:
    """The commands in what a client sent, as words."""
    found, rest = [], sent
    while rest:
        count, _, rest = rest[1:].partition(b"\r\n")
        words = []
        for _ in range(int(count)):
            size, _, rest = rest[1:].partition(b"\r\n")
            words.append(rest[: int(size)])
            rest = rest[int(size) + 2 :]
        found.append(words)
    return found


class Read(NamedTuple):
    """One answer of a reader, and between which moments it came about."""

    began: float
    ended: float
    version: str
    rows: Floats


class Replacement(NamedTuple):
    """One version, the moment it was asked for and the moment it was acknowledged."""

    asked: float
    acknowledged: float
    version: str


def test_space_replaced_under_load_serves_one_current_version(cluster: Cluster, pair: Pair) -> None:
    """Each answer comes from the one version it names, and none from before the last known."""
    variants = [variant(pair, i) for i in range(VARIANTS)]
    wanted = [translated(pair, anchors) for anchors in variants]
    over, done = threading.Event(), [0] * READERS
    apis = [cluster.api(), cluster.api()]
    with (
        BoundedClient(apis[0].url) as a,
        BoundedClient(apis[1].url) as b,
        ThreadPoolExecutor(READERS) as pool,
    ):
        assert a.put_space("x", pair.x_anchors).status_code == 201
        history: list[Replacement] = []

        def replace(i: int) -> None:
            asked = time.monotonic()
            told = (a, b)[i % 2].put_space("y", variants[i % VARIANTS])
            assert told.is_success, told.text
            history.append(Replacement(asked, time.monotonic(), told.json()["version"]))

        def read(i: int) -> list[Read]:
            found = []
            while not over.is_set():
                began = time.monotonic()
                told = (a, b)[i % 2].translate(pair.x[:4], "x", "y")
                rows = rows_of(told)
                found.append(Read(began, time.monotonic(), version_of(told, "Target"), rows))
                done[i] += 1
            return found

        replace(0)
        readers = [pool.submit(read, i) for i in range(READERS)]
        try:
            for i in range(1, REPLACEMENTS):
                seen = list(done)
                replace(i)
                wait_until("all have read", partial(_moved, seen, done))
        finally:
            over.set()
        reads = [one for reader in readers for one in reader.result(30)]
    rows = {told.version: wanted[i % VARIANTS][:4] for i, told in enumerate(history)}
    assert len(rows) == VARIANTS
    for one in reads:
        np.testing.assert_allclose(one.rows, rows[one.version], atol=1e-4)
        last = max(i for i, told in enumerate(history) if told.acknowledged < one.began)
        current = [told.version for told in history[last:] if told.asked < one.ended]
        assert one.version in current, "older than what was acknowledged, or than anything"


@pytest.mark.models
def test_new_version_that_fails_to_load_leaves_the_old_one_serving(
    text_service: TextService,
) -> None:
    """The draft fails with a reason, and no request on the old version fails meanwhile."""
    client, texts = text_service.client, [f"text number {i}" for i in range(12)]
    told = client.send("PUT", "/anchor-sets/f13", {"modality": "text", "items": texts})
    assert told.status_code == 201
    declared: dict[str, Any] = {"anchor_set": "f13", "encoder": SPEC}
    assert client.send("PUT", "/spaces/f13", declared).status_code == 202
    wait_until("the first version serves", lambda: _shown(client, "f13")["status"] == "ready")
    version, over = _shown(client, "f13")["version"], threading.Event()

    def use() -> list[tuple[int, str]]:
        found = []
        while not over.is_set():
            told = client.send("POST", "/embed/f13", {"items": ["a text"]})
            found.append((told.status_code, version_of(told, "Source")))
        return found

    with ThreadPoolExecutor(2) as pool:
        users = [pool.submit(use) for _ in range(2)]
        try:
            for model, reason in (("no/such-model", "hub_models"), ("/etc", "model_roots")):
                broken = {**declared, "encoder": {"kind": "transformers", "model": model}}
                told = client.send("PUT", "/spaces/f13", broken)
                assert told.status_code == 202
                assert told.json()["version"] == version, "the old one serves"

                def failed(id_: str = told.json()["pending"]["version"]) -> bool:
                    pending = _shown(client, "f13")["pending"]
                    return (pending["version"], pending["status"]) == (id_, "failed")

                wait_until("the new version has failed", failed)
                assert reason in _shown(client, "f13")["pending"]["reason"]
        finally:
            over.set()
        for user in users:
            assert set(user.result(30)) == {(200, version)}
    assert _shown(client, "f13")["version"] == version


@pytest.mark.models
def test_deletion_lets_work_in_progress_end(text_service: TextService) -> None:
    """Work under way ends, new requests are 404, a space that a head needs is 409."""
    client, text = text_service.client, {"items": ["a text"]}
    assert client.put_space("f14", text_service.anchors, encoder=SPEC).status_code == 201
    head = {"space": "f14", "weight": np.eye(2, 384).tolist(), "labels": ["a", "b"]}
    assert client.send("PUT", "/heads/f14", head).status_code == 201
    told = client.send("DELETE", "/spaces/f14")
    assert (told.status_code, told.json()["code"]) == (409, "resource-in-use")

    text_service.worker.pause()
    try:
        with ThreadPoolExecutor(16) as pool:
            held = [pool.submit(client.send, "POST", "/stitch/m/f14", text) for _ in range(6)]
            held += [pool.submit(client.send, "POST", "/stitch/f14/f14", text) for _ in range(6)]
            wait_until("all are admitted", lambda: _admitted(client) == len(held))
            deleted = pool.submit(client.send, "DELETE", "/heads/f14")
            wait_until("no head", lambda: client.send("GET", "/heads/f14").status_code == 404)
            gone = pool.submit(client.send, "DELETE", "/spaces/f14")
            wait_until("no space", lambda: client.send("GET", "/spaces/f14").status_code == 404)
            for path in ("/stitch/m/f14", "/stitch/f14/h", "/embed/f14"):
                assert client.send("POST", path, text).status_code == 404
            assert not any(future.done() for future in (*held, deleted, gone))
            text_service.worker.resume()
            assert {future.result(30).status_code for future in held} == {200}
            assert [deleted.result(30).status_code, gone.result(30).status_code] == [204, 204]
    finally:
        text_service.worker.resume()


def test_replicas_that_register_the_same_id_leave_one_version(cluster: Cluster, pair: Pair) -> None:
    """One gets 201, the other 200 or 409, and what stands is one of the two, whole."""
    apis = [cluster.api(), cluster.api()]
    both = threading.Barrier(2)
    with (
        BoundedClient(apis[0].url) as a,
        BoundedClient(apis[1].url) as b,
        ThreadPoolExecutor(2) as pool,
    ):

        def put(
            client: BoundedClient, id_: str, anchors: Floats, anchor_set: str
        ) -> httpx.Response:
            both.wait(30)
            return client.put_space(id_, anchors, anchor_set=anchor_set)

        for i in range(ROUNDS):
            # Every other time the set is new too, and the last rounds declare the same twice.
            anchor_set, id_ = f"S{i // 2}", f"s{i}"
            given = [variant(pair, 0), variant(pair, 0 if i >= ROUNDS - 4 else 1)]
            held = [
                pool.submit(put, client, id_, anchors, anchor_set)
                for client, anchors in zip((a, b), given, strict=True)
            ]
            told = [future.result(30) for future in held]
            assert sorted(answer.status_code for answer in told) in ([200, 201], [201, 409])
            version, anchors = stored_anchors(cluster, id_)
            winner = [answer.json().get("version") for answer in told].index(version)
            np.testing.assert_array_equal(anchors, given[winner])
            for client in (a, b):
                assert client.send("GET", f"/spaces/{id_}").json()["version"] == version


def _moved(before: list[int], done: list[int]) -> bool:
    """Whether every reader began and ended a read, and so has seen what stood in between."""
    return all(now >= then + 2 for then, now in zip(before, done, strict=True))


def _shown(client: BoundedClient, id_: str) -> dict[str, Any]:
    told: dict[str, Any] = client.send("GET", f"/spaces/{id_}").json()
    return told


def _admitted(client: BoundedClient) -> int:
    queues = client.send("GET", "/workers").json()["queues"]
    return sum(queue["waiting"] + queue["running"] for queue in queues)
