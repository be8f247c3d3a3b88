"""Registrations under faults: processes killed during writes, races, models that do not load."""

import re
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
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import RedisClient
from stitchwork.redis.commands import script_command
from stitchwork.registry import change_log
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats
from tests.chaos.conftest import SPEC, TextService
from tests.conftest import Pair
from tests.support import machine
from tests.support.cluster import BoundedClient, Cluster, is_refusal, rows_of, version_of
from tests.support.proxy import Chunk, Proxy
from tests.support.waiting import result_of, wait_until

pytestmark = pytest.mark.drills

VARIANTS = 6
REPLACEMENTS = 30
READERS = 8
ROUNDS = 20


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """A proxy before the registry server."""
    proxy = Proxy(cluster.folder / "proxy.sock", cluster.registry.path)
    yield proxy
    proxy.close()


def variant(pair: Pair, i: int) -> Floats:
    """Anchors of y by another release of its encoder: rotated."""
    rotation, _ = np.linalg.qr(np.random.default_rng(i).normal(size=(32, 32)))
    anchors: Floats = (pair.y_anchors @ rotation).astype(np.float32)
    return anchors


def translated(pair: Pair, anchors: Floats) -> Floats:
    """The expected result of /translate for x → y with these anchors of y."""
    rows: Floats = np.asarray(
        compose(
            "ridge",
            FittedSpace(Frame.from_anchors(pair.x_anchors)),
            FittedSpace(Frame.from_anchors(anchors)),
        )
        .apply(pair.x)
        .rows
    )
    return rows


def stored_anchors(cluster: Cluster, id_: str) -> tuple[str, Floats]:
    """The version in the registry under an id, and its anchors."""
    server = RedisClient(cluster.registry.url, 5.0, RegistryUnavailableError)
    try:
        registry = Registry(server, durable=False, stale_seconds=0)
        (record,), _ = registry.spaces.ready(id_)
        return record.version, registry.spaces.arrays(id_, record.version)["anchors"]
    finally:
        server.close()


UPLOAD, COMMIT = (
    str(script_command(script, ())[1]).encode()
    for script in (chunked_arrays.WRITE, change_log.COMMIT)
)
"""What names the script of an upload, and that of a commit, in a call."""
CUTS: list[tuple[str, Callable[[Proxy], None], bool]] = [
    ("before the current version is read", lambda proxy: proxy.cut(b"HMGET", 0), False),
    ("before the upload", lambda proxy: proxy.cut(UPLOAD, 0), False),
    ("during the upload", lambda proxy: proxy.cut(UPLOAD, 5_000), False),
    ("before the commit", lambda proxy: proxy.cut(COMMIT, 0), False),
    ("during the commit", lambda proxy: proxy.cut(COMMIT, 300), False),
    ("before the reply to the commit", lambda proxy: proxy.drop_replies(COMMIT), True),
]


def test_api_killed_during_put_leaves_the_old_or_the_new_version(
    cluster: Cluster, proxy: Proxy, pair: Pair
) -> None:
    """The registry has the old or the new version afterwards, complete, and accepts writes."""
    with BoundedClient(cluster.api().url) as witness, ThreadPoolExecutor(1) as pool:
        assert witness.put_space("x", pair.x_anchors).status_code == 201
        current = variant(pair, 0)
        assert witness.put_space("y", current).status_code == 201
        for i, (where, cut, replaced) in enumerate(CUTS, 1):
            proxy.restore()
            victim = cluster.api(STITCHWORK_REDIS_URL=proxy.url)
            cut(proxy)
            with BoundedClient(victim.url) as client:
                pending = pool.submit(client.put_space, "y", variant(pair, i))
                assert proxy.triggered.wait(machine.deadline(30)), where
                victim.kill()
                with pytest.raises(httpx.TransportError):
                    result_of(pending)
            current = variant(pair, i) if replaced else current
            version, anchors = stored_anchors(cluster, "y")
            np.testing.assert_array_equal(anchors, current, err_msg=where)
            response = witness.translate(pair.x, "x", "y")
            assert version_of(response, "Target") == version, where
            np.testing.assert_allclose(rows_of(response), translated(pair, current), atol=1e-4)
        assert witness.put_space("y", variant(pair, 9)).json()["outcome"] == "replaced"


def test_write_is_acknowledged_after_waitaof_confirms_it(
    cluster: Cluster, proxy: Proxy, pair: Pair
) -> None:
    """WAITAOF follows the write on its connection, and its reply is ≥ 1 before the 201."""
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
            proxy.restore()
            assert send().status_code == status
            chunks = list(proxy.chunks)
            connection = next(p.connection for p in chunks if p.to_server and b"WAITAOF" in p.data)
            sent, answered = (_bytes(chunks, connection, to_server) for to_server in (True, False))
            commands = _commands(sent)
            positions = [i for i, command in enumerate(commands) if command[0] == b"WAITAOF"]
            for at in positions:
                assert commands[at][:3] == [b"WAITAOF", b"1", b"0"]
                # By its text where the server did not know the script.
                text = change_log.COMMIT.encode()
                assert commands[at - 1][1] in (COMMIT, text), "right after the commit"
            confirmed = rb"\*2\r\n\$32\r\n[0-9a-f]{32}\r\n:\d+\r\n\*2\r\n:1\r\n:0\r\n"
            assert re.search(confirmed, answered), "committed, and in the file"


@pytest.mark.parametrize(
    ("name", "value"), [("appendfsync", "no"), ("appendonly", "no")], ids=["zero", "error"]
)
def test_write_that_waitaof_does_not_confirm_is_refused(
    cluster: Cluster, proxy: Proxy, pair: Pair, name: str, value: str
) -> None:
    """Where WAITAOF replies 0, or an error without an AOF, the response is 503."""
    if not cluster.binary.has_waitaof:
        pytest.skip("Redis 7.0 has no WAITAOF")
    api = cluster.api(STITCHWORK_REDIS_URL=proxy.url, STITCHWORK_REDIS_TIMEOUT_SECONDS="1")
    with BoundedClient(api.url) as client:
        assert client.put_space("before", pair.x_anchors).status_code == 201
        cluster.records.config_set(name, value)
        proxy.restore()
        for id_ in ("new", "before"):
            response = client.put_space(id_, pair.x_anchors)
            assert response.status_code == 503
            assert is_refusal(response)
        # Other connections may get replies after it.
        answer = b"*2\r\n:0\r\n:0\r\n" if name == "appendfsync" else b"disabled.\r\n"
        assert any(p.data.endswith(answer) for p in proxy.chunks if not p.to_server)
        # The server still answers: only durable writes fail.
        assert client.translate(pair.x, "before", "before").status_code == 200
        cluster.records.config_set(name, {"appendfsync": "always", "appendonly": "yes"}[name])
        wait_until(
            "writes are durable again", lambda: client.put_space("new", pair.x_anchors).is_success
        )


def _bytes(chunks: list[Chunk], connection: int, to_server: bool) -> bytes:
    return b"".join(
        p.data for p in chunks if (p.connection, p.to_server) == (connection, to_server)
    )


def _commands(sent: bytes) -> list[list[bytes]]:
    """The commands in the bytes of a client, as words."""
    commands, rest = [], sent
    while rest:
        count, _, rest = rest[1:].partition(b"\r\n")
        words = []
        for _ in range(int(count)):
            size, _, rest = rest[1:].partition(b"\r\n")
            words.append(rest[: int(size)])
            rest = rest[int(size) + 2 :]
        commands.append(words)
    return commands


class Read(NamedTuple):
    """One response to a reader, with the times of request and response."""

    start: float
    end: float
    version: str
    rows: Floats


class Replacement(NamedTuple):
    """One version, with the times of its request and of its acknowledgement."""

    start: float
    acknowledged: float
    version: str


def test_space_replaced_under_load_serves_one_current_version(cluster: Cluster, pair: Pair) -> None:
    """Each response comes from the version that it names, none older than acknowledged before."""
    variants = [variant(pair, i) for i in range(VARIANTS)]
    expected = [translated(pair, anchors) for anchors in variants]
    stop, counts = threading.Event(), [0] * READERS
    apis = [cluster.api(), cluster.api()]
    with (
        BoundedClient(apis[0].url) as a,
        BoundedClient(apis[1].url) as b,
        ThreadPoolExecutor(READERS) as pool,
    ):
        assert a.put_space("x", pair.x_anchors).status_code == 201
        history: list[Replacement] = []

        def replace(i: int) -> None:
            start = time.monotonic()
            response = (a, b)[i % 2].put_space("y", variants[i % VARIANTS])
            assert response.is_success, response.text
            version = response.json()["version"]
            history.append(Replacement(start, time.monotonic(), version))

        def read(i: int) -> list[Read]:
            reads = []
            while not stop.is_set():
                start = time.monotonic()
                response = (a, b)[i % 2].translate(pair.x[:4], "x", "y")
                version = version_of(response, "Target")
                reads.append(Read(start, time.monotonic(), version, rows_of(response)))
                counts[i] += 1
            return reads

        replace(0)
        readers = [pool.submit(read, i) for i in range(READERS)]
        try:
            for i in range(1, REPLACEMENTS):
                before = list(counts)
                replace(i)
                wait_until("all readers have read it", partial(_advanced, before, counts))
        finally:
            stop.set()
        reads = [one for reader in readers for one in result_of(reader)]
    rows = {entry.version: expected[i % VARIANTS][:4] for i, entry in enumerate(history)}
    assert len(rows) == VARIANTS
    for one in reads:
        np.testing.assert_allclose(one.rows, rows[one.version], atol=1e-4)
        last = max(i for i, entry in enumerate(history) if entry.acknowledged < one.start)
        current = [entry.version for entry in history[last:] if entry.start < one.end]
        assert one.version in current, "older than what was acknowledged, or than anything"


@pytest.mark.models
def test_new_version_that_fails_to_load_leaves_the_old_one_serving(
    text_service: TextService,
) -> None:
    """The registration fails with a reason; no request on the old version fails meanwhile."""
    client, texts = text_service.client, [f"text number {i}" for i in range(12)]
    response = client.send("PUT", "/anchor-sets/broken", {"modality": "text", "items": texts})
    assert response.status_code == 201
    declared: dict[str, Any] = {"anchor_set": "broken", "encoder": SPEC}
    assert client.send("PUT", "/spaces/broken", declared).status_code == 202
    wait_until("the first version serves", lambda: record_of(client, "broken")["status"] == "ready")
    version, stop = record_of(client, "broken")["version"], threading.Event()

    def use() -> list[tuple[int, str]]:
        results = []
        while not stop.is_set():
            response = client.send("POST", "/embed/broken", {"items": ["a text"]})
            results.append((response.status_code, version_of(response, "Source")))
        return results

    with ThreadPoolExecutor(2) as pool:
        users = [pool.submit(use) for _ in range(2)]
        try:
            for model, reason in (("/usr", "model_roots"), ("/etc", "model_roots")):
                broken = {**declared, "encoder": {"kind": "transformers", "model": model}}
                response = client.send("PUT", "/spaces/broken", broken)
                assert response.status_code == 202
                assert response.json()["version"] == version, "the old one serves"

                def failed(id_: str = response.json()["pending"]["version"]) -> bool:
                    pending = record_of(client, "broken")["pending"]
                    return (pending["version"], pending["status"]) == (id_, "failed")

                wait_until("the new version has failed", failed)
                assert reason in record_of(client, "broken")["pending"]["reason"]
        finally:
            stop.set()
        for user in users:
            results = result_of(user)
            assert set(results) == {(200, version)}
    assert record_of(client, "broken")["version"] == version


@pytest.mark.models
def test_deletion_lets_work_in_progress_end(text_service: TextService) -> None:
    """Work in progress ends, new requests get 404, a space that a head needs is 409."""
    client, text = text_service.client, {"items": ["a text"]}
    assert client.put_space("deleted", text_service.anchors, encoder=SPEC).status_code == 201
    head = {"space": "deleted", "weight": np.eye(2, 384).tolist(), "labels": ["a", "b"]}
    assert client.send("PUT", "/heads/deleted", head).status_code == 201
    response = client.send("DELETE", "/spaces/deleted")
    assert (response.status_code, response.json()["code"]) == (409, "resource-in-use")

    text_service.worker.pause()
    try:
        with ThreadPoolExecutor(16) as pool:
            pending = [
                pool.submit(client.send, "POST", "/stitch/m/deleted", text) for _ in range(6)
            ]
            pending += [
                pool.submit(client.send, "POST", "/stitch/deleted/deleted", text) for _ in range(6)
            ]
            wait_until("all are admitted", lambda: _admitted(client) == len(pending))
            deleted = pool.submit(client.send, "DELETE", "/heads/deleted")
            wait_until("no head", lambda: client.send("GET", "/heads/deleted").status_code == 404)
            gone = pool.submit(client.send, "DELETE", "/spaces/deleted")
            wait_until("no space", lambda: client.send("GET", "/spaces/deleted").status_code == 404)
            for path in ("/stitch/m/deleted", "/stitch/deleted/h", "/embed/deleted"):
                assert client.send("POST", path, text).status_code == 404
            assert not any(future.done() for future in (*pending, deleted, gone))
            text_service.worker.resume()
            assert {result_of(future).status_code for future in pending} == {200}
            assert [
                result_of(deleted).status_code,
                result_of(gone).status_code,
            ] == [204, 204]
    finally:
        text_service.worker.resume()


def test_replicas_that_register_the_same_id_leave_one_version(cluster: Cluster, pair: Pair) -> None:
    """One gets 201, the other 200 or 409, and one complete version remains."""
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
            both.wait(machine.deadline(30))
            return client.put_space(id_, anchors, anchor_set=anchor_set)

        for i in range(ROUNDS):
            # Every other time the set is new too, and the last rounds declare the same twice.
            anchor_set, id_ = f"S{i // 2}", f"s{i}"
            same = i >= ROUNDS - 4
            variants = [variant(pair, 0), variant(pair, 0 if same else 1)]
            pending = [
                pool.submit(put, client, id_, anchors, anchor_set)
                for client, anchors in zip((a, b), variants, strict=True)
            ]
            responses = [result_of(future) for future in pending]
            statuses = sorted(response.status_code for response in responses)
            assert statuses == [200, 201] or (statuses == [201, 409] and not same)
            version, anchors = stored_anchors(cluster, id_)
            winner = [response.json().get("version") for response in responses].index(version)
            np.testing.assert_array_equal(anchors, variants[winner])
            for client in (a, b):
                assert client.send("GET", f"/spaces/{id_}").json()["version"] == version


def _advanced(before: list[int], counts: list[int]) -> bool:
    """Whether every reader began and ended a read in between."""
    return all(count >= old + 2 for old, count in zip(before, counts, strict=True))


def record_of(client: BoundedClient, id_: str) -> dict[str, Any]:
    record: dict[str, Any] = client.send("GET", f"/spaces/{id_}").json()
    return record


def _admitted(client: BoundedClient) -> int:
    queues = client.send("GET", "/workers").json()["queues"]
    return sum(queue["waiting"] + queue["running"] for queue in queues)
