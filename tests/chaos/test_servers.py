"""The registry or queue server dies, hangs, loses or corrupts data, or runs out of memory."""

import hashlib
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stitchwork.inference.inverse_cache import LOCK_SECONDS
from stitchwork.queue.keys import ShardKeys
from stitchwork.redis.serialization import CHECKSUM_BYTES, MAGIC, unpack
from stitchwork.resources import Floats
from tests.chaos.conftest import REDIS_TIMEOUT, TextService
from tests.conftest import Pair, make_pair
from tests.support import machine
from tests.support.cluster import BoundedClient, Cluster, Process, is_refusal, is_stale, rows_of
from tests.support.metric_samples import Scrape
from tests.support.servers import ServerProcess
from tests.support.waiting import result_of, wait_until

pytestmark = pytest.mark.drills

STALE = 3.0
LARGE = 8_000
"""Anchors whose inverse takes long enough to be found while it is computed."""
CORRUPT = "corrupt_inverses_total"
CALL_BOUND = 3 * REDIS_TIMEOUT + 12.0
"""At most two timeouts at the registry and one at the queue server; the rest is for many calls at a
time, and far below the 30 s that a request may take."""


def test_registry_outage_serves_stale_and_recovers(cluster: Cluster, pair: Pair) -> None:
    """Cached pairs are served stale for a set time, writes get 503, and all recovers."""
    api = cluster.api(STITCHWORK_STALE_SECONDS=str(STALE), STITCHWORK_REDIS_TIMEOUT_SECONDS="1")
    with BoundedClient(api.url) as client:
        for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors), ("z", pair.y_anchors)):
            assert client.put_space(name, anchors).status_code == 201
        start = time.monotonic()
        fresh = client.translate(pair.x, "x", "y")
        first_response = time.monotonic()
        assert not is_stale(fresh)

        cluster.registry.stop(kill=True)
        # Nobody can change a version while the lease lasts, so the responses are not stale yet.
        wait_until("the lease has run out", lambda: is_stale(client.translate(pair.x, "x", "y")))
        stale = client.translate(pair.x, "x", "y")
        assert is_stale(stale)
        np.testing.assert_array_equal(rows_of(stale), rows_of(fresh))
        assert is_refusal(client.translate(pair.x, "x", "z")), "z is not cached"
        for response in (
            client.put_space("x", pair.x_anchors + np.float32(1)),
            client.put_space("new", pair.x_anchors),
            client.send("DELETE", "/spaces/z"),
        ):
            assert response.status_code == 503
            assert is_refusal(response)

        def too_old() -> bool:
            response = client.translate(pair.x, "x", "y")
            assert is_refusal(response) or (response.status_code == 200 and is_stale(response))
            return response.status_code == 503

        wait_until("the cached records are too old", too_old)
        assert time.monotonic() - start >= STALE
        assert time.monotonic() - first_response < 10 * STALE

        cluster.registry.start()
        wait_until("it serves again", lambda: client.translate(pair.x, "x", "y").is_success)
        again = client.translate(pair.x, "x", "y")
        assert not is_stale(again)
        np.testing.assert_array_equal(rows_of(again), rows_of(fresh))
        assert client.put_space("new", pair.x_anchors).status_code == 201
        assert api.process.poll() is None


def test_queue_outage_during_a_wait_for_an_inverse_computes_it(
    cluster: Cluster, pair: Pair
) -> None:
    """Without the cache, the process computes the inverse itself."""
    api = cluster.api(STITCHWORK_REDIS_TIMEOUT_SECONDS="1")
    with BoundedClient(api.url) as client, ThreadPoolExecutor(1) as pool:
        version = client.put_space("x", pair.x_anchors).json()["version"]
        assert client.put_space("y", pair.y_anchors).status_code == 201
        wait_until("all inverses are cached", lambda: len(cluster.inverses()) == 4)
        key = f"stitchwork:inverse:ridge:{version}"
        cluster.jobs.set(f"{key}:lock", "another process")
        cluster.jobs.delete(key)
        cluster.jobs.config_resetstat()
        pending = pool.submit(client.translate, pair.x, "x", "y")

        def waits() -> bool:
            statistics: Any = cluster.jobs.info("commandstats")
            return int(statistics.get("cmdstat_set", {}).get("calls", 0)) >= 3

        wait_until("it waits for the other process", waits)
        cluster.queue.stop(kill=True)
        assert rows_of(result_of(pending)).shape == pair.y.shape


def test_fit_of_a_killed_process_delays_no_other_pair(cluster: Cluster, pair: Pair) -> None:
    """Its lock has a short lifetime, and nobody waits for it on the only fit thread."""
    first, second = cluster.api(), cluster.api()
    rows = np.random.default_rng(0).normal(size=(LARGE, 512)).astype(np.float32)
    put_array(second, "other", rows[:, :8])
    wait_until("its inverses are cached", lambda: len(cluster.inverses()) == 2)
    for attempt in range(5):
        name = f"large-{attempt}"
        put_array(first, name, rows)
        wait_until("an inverse is computed", cluster.locks)
        first.pause()
        if cluster.locks():
            break
        first.resume()
    first.kill()
    (lock,) = cluster.locks()
    lifetime: Any = cluster.jobs.pttl(lock)
    assert lifetime <= LOCK_SECONDS * 1000
    # However slow this machine is, the lock is there.
    cluster.jobs.persist(lock)
    with BoundedClient(second.url) as client, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.translate, rows[:2, :8], "other", name)
        for id_, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
            assert client.put_space(id_, anchors).status_code == 201
        assert rows_of(client.translate(pair.x, "x", "y")).shape == pair.y.shape
        assert lock in cluster.locks()
        # What is left of its lifetime passes at once.
        cluster.jobs.pexpire(lock, 1)
        assert rows_of(result_of(pending)).shape == (2, 512)


def put_array(api: Process, name: str, anchors: Floats) -> None:
    """Register a space on the set L."""
    file = BytesIO()
    np.save(file, anchors)
    response = httpx.post(
        f"{api.url}/spaces?id={name}&anchor_set=L",
        content=file.getvalue(),
        headers={"Content-Type": "application/x-npy"},
        timeout=machine.deadline(60),
    )
    assert response.status_code == 201, response.text


def test_queue_outage_leaves_what_needs_no_worker(cluster: Cluster, pair: Pair) -> None:
    """The process is ready, and says that the queue is away."""
    api = cluster.api(STITCHWORK_REDIS_TIMEOUT_SECONDS="1")
    with BoundedClient(api.url) as client:
        for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
            assert client.put_space(name, anchors).status_code == 201
        weight = np.eye(2, pair.y.shape[1]).tolist()
        head = {"space": "y", "weight": weight, "labels": ["a", "b"]}
        assert client.send("PUT", "/heads/h", head).status_code == 201
        body = {"space": "x", "bridge": "ridge", "embeddings": pair.x.tolist()}

        def served() -> list[int]:
            classified = client.send("POST", "/classify/h", body)
            translated = client.translate(pair.x, "x", "y")
            return [classified.status_code, translated.status_code]

        def readiness() -> httpx.Response:
            return client.send("GET", "/health/ready")

        wait_until("both servers are known", lambda: readiness().json()["queue"])
        assert readiness().json()["registry"]
        cluster.queue.stop(kill=True)
        wait_until("the outage is known", lambda: not readiness().json()["queue"])
        assert served() == [200, 200]
        response = readiness()
        assert response.status_code == 200, response.text
        assert response.json() | {"ready": True, "workers": 0} == response.json()
        cluster.registry.stop(kill=True)
        wait_until("the other outage is known", lambda: not readiness().json()["registry"])
        assert served() == [200, 200]
        assert readiness().status_code == 200
        assert client.send("GET", "/health/live").status_code == 200
        cluster.registry.start()
        cluster.queue.start()
        wait_until("the registry is known", lambda: readiness().json()["registry"])
        wait_until("the queue is known", lambda: readiness().json()["queue"])


@pytest.mark.models
@pytest.mark.parametrize("which", ["registry", "queue"])
def test_silent_server_leaves_every_call_bounded(text_service: TextService, which: str) -> None:
    """Every call ends in time, with 503 or without the server; then all recovers."""
    server: ServerProcess = getattr(text_service.cluster, which)
    silent = which == "registry"
    m, rows = text_service.anchors, text_service.anchors[:3]
    text, ids = {"items": ["a text"]}, [f"silent-{which}-{i}" for i in range(3)]
    spare = [f"{id_}-spare" for id_ in ids]
    for id_ in (*ids, *spare):
        response = text_service.client.put_space(id_, m)
        assert response.status_code == 201, response.text
    for warm in (
        text_service.client.translate(rows, "m", "n"),
        text_service.client.send("POST", "/embed/m", text),
    ):
        assert warm.status_code == 200, warm.text

    def calls(client: BoundedClient, i: int) -> list[tuple[str, int, Future[httpx.Response]]]:
        away, queued = (503, 200) if silent else (200, 503)
        expected: list[tuple[str, int, Callable[[], httpx.Response]]] = [
            ("used pair", 200, lambda: client.translate(rows, "m", "n")),
            ("new pair", away, lambda: client.translate(rows, ids[i], "m")),
            ("put", 503 if silent else 201, lambda: client.put_space(f"{ids[i]}-new", m)),
            (
                "delete",
                503 if silent else 204,
                lambda: client.send("DELETE", f"/spaces/{spare[i]}"),
            ),
            ("list", away, lambda: client.send("GET", "/spaces")),
            ("embed", queued, lambda: client.send("POST", "/embed/m", text)),
            ("stitch", queued, lambda: client.send("POST", "/stitch/m/h", text)),
            ("ready", 200, lambda: client.send("GET", "/health/ready")),
            ("live", 200, lambda: client.send("GET", "/health/live")),
        ]
        return [(name, status, pool.submit(call)) for name, status, call in expected]

    with ThreadPoolExecutor(32) as pool, BoundedClient(text_service.api.url, CALL_BOUND) as client:
        server.pause()
        try:
            if silent:

                def lapsed() -> bool:
                    # A space that a check has just changed is stale before the lease runs out.
                    embedded = client.send("POST", "/embed/m", text)
                    return is_stale(embedded) and is_stale(client.translate(rows, "m", "n"))

                wait_until("the lease has run out", lapsed)
            # The client's own time limit bounds each; what takes longer fails here.
            for name, status, future in [call for i in range(3) for call in calls(client, i)]:
                response = future.result()
                assert response.status_code == status, f"{name}: {response.text}"
                assert status != 503 or is_refusal(response), name
                if silent and name in ("used pair", "embed", "stitch"):
                    assert is_stale(response), name
        finally:
            server.resume()
        wait_until("it is ready again", client.ready)

        def recovered() -> bool:
            responses = [
                client.translate(rows, "m", "n"),
                client.send("POST", "/stitch/m/h", text),
                client.send("POST", "/embed/m", text),
            ]
            return all(response.is_success and not is_stale(response) for response in responses)

        wait_until("all serve again", recovered)
        # Writes have their own client, which leaves a server alone for a moment after a failure.
        wait_until(
            "it is written to again",
            lambda: client.put_space(f"{ids[0]}-after", m).status_code == 201,
        )


def test_emptied_cache_computes_each_inverse_once(cluster: Cluster) -> None:
    """One inverse is computed for each space and bridge; the registry is unchanged."""
    pair = make_pair(k=500, dims=(192, 256), latent=32)
    first = cluster.api()
    with BoundedClient(first.url) as client:
        versions = {
            "ridge": client.put_space("x", pair.x_anchors).json()["version"],
            "irp": client.put_space("y", pair.y_anchors).json()["version"],
        }
        wait_until("all inverses are cached", lambda: len(cluster.inverses()) == 4)
        expected = {b: rows_of(client.translate(pair.x, "x", "y", b)) for b in versions}
    assert first.stop() == 0
    before = cluster.contents()
    apis = [cluster.api(), cluster.api()]
    cluster.jobs.config_set("notify-keyspace-events", "Kh")
    with cluster.subscriber() as events:
        events.psubscribe("__keyspace@0__:stitchwork:inverse:*")
        assert events.get_message(timeout=5)["type"] == "psubscribe"
        cluster.jobs.flushall()
        with (
            ThreadPoolExecutor(100) as pool,
            BoundedClient(apis[0].url) as a,
            BoundedClient(apis[1].url) as b,
        ):
            bridges = [("ridge", "irp")[i // 2 % 2] for i in range(100)]
            pending = [
                pool.submit((a, b)[i % 2].translate, pair.x, "x", "y", bridge)
                for i, bridge in enumerate(bridges)
            ]
            for bridge, future in zip(bridges, pending, strict=True):
                np.testing.assert_allclose(rows_of(result_of(future)), expected[bridge], atol=1e-4)
        written: list[str] = []

        def all_are_written() -> bool:
            while (event := events.get_message(timeout=0.2)) is not None:
                if event["data"] == b"hset":
                    written.append(event["channel"].decode().partition(":")[2])
            return len(written) >= len(versions)

        wait_until("they are cached again", all_are_written)
    assert sorted(written) == sorted(
        f"stitchwork:inverse:{bridge}:{version}" for bridge, version in versions.items()
    )
    # An inverse that is computed and not cached is no HSET, but it is logged.
    assert not any("inverse cache unavailable" in api.log() for api in apis)
    assert cluster.contents() == before


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self._path,)


def test_damaged_cached_inverses_are_computed_again(cluster: Cluster, tmp_path: Path) -> None:
    """The checksum fails; the inverse is computed again with the same result, and counted."""
    pair, trace = make_pair(), tmp_path / "loaded"
    bomb = pickle.dumps(Bomb(trace))
    checksum = hashlib.blake2b(bomb, digest_size=CHECKSUM_BYTES).digest()
    damages: dict[str, Callable[[bytes], bytes]] = {
        "flipped": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        "cut": lambda data: data[: len(data) // 2],
        "empty": lambda data: b"",
        "pickle": lambda data: bomb,
        "signed-pickle": lambda data: MAGIC + checksum + bomb,
    }
    first = cluster.api()
    keys, expected = {}, {}
    with BoundedClient(first.url) as client:
        assert client.put_space("y", pair.y_anchors).status_code == 201
        for i, name in enumerate(damages):
            version = client.put_space(name, pair.x_anchors * np.float32(i + 1)).json()["version"]
            keys[name] = f"stitchwork:inverse:ridge:{version}"
        wait_until("all are cached", lambda: len(cluster.inverses()) == 2 * len(damages) + 2)
        for name in damages:
            expected[name] = rows_of(client.translate(pair.x, name, "y"))
    assert first.stop() == 0
    whole = {name: cluster.cached_bytes(key) for name, key in keys.items()}
    for name, damage in damages.items():
        assert damage(whole[name]) != whole[name]
        cluster.jobs.hset(keys[name], "0", damage(whole[name]))
    fresh = cluster.api()
    with BoundedClient(fresh.url) as client:
        for count, name in enumerate(damages, 1):
            rows = rows_of(client.translate(pair.x, name, "y"))
            np.testing.assert_allclose(rows, expected[name], atol=1e-6)
            assert Scrape(f"{fresh.url}/metrics").sum(CORRUPT) == count, name
            cached = cluster.cached_bytes(keys[name])
            np.testing.assert_array_equal(
                unpack(cached)[0]["inverse"], unpack(whole[name])[0]["inverse"]
            )
    assert not trace.exists(), "the pickle was loaded"


@pytest.mark.models
def test_queue_server_out_of_memory_refuses_new_work_only(text_service: TextService) -> None:
    """New work is refused, accepted work is first_response, only cached inverses are evicted."""
    cluster, client = text_service.cluster, text_service.client
    rng = np.random.default_rng(20)
    for i in range(4):
        wide = rng.normal(size=(300, 512)).astype(np.float32)
        response = client.put_space(f"memory-{i}", wide, anchor_set="memory")
        assert response.status_code == 201
    wait_until("they are cached", lambda: len(cluster.inverses()) >= 8)
    registered, text = cluster.contents(), "word " * 60_000
    text_service.worker.pause()
    try:
        before = _lasting(cluster)
        used = int(cluster.jobs.info("memory")["used_memory"])
        cluster.jobs.config_resetstat()
        cluster.jobs.config_set("maxmemory", used + 2 * 2**20)
        with ThreadPoolExecutor(60) as pool:
            body = {"items": [text], "truncate": True}
            pending = [pool.submit(client.send, "POST", "/stitch/m/h", body) for _ in range(60)]

            def settled() -> bool:
                return sum(not f.done() for f in pending) == _accepted(cluster) < len(pending)

            wait_until("the rest is refused", settled)
            early = [future.result() for future in pending if future.done()]
            assert all(is_refusal(response) for response in early)
            accepted = [future for future in pending if not future.done()]
            assert len(accepted) > 10
            assert not cluster.inverses(), "inverses are evicted first"
            assert int(cluster.jobs.info("stats")["evicted_keys"]) > 0

            # From now on there is no memory even for a heartbeat.
            cluster.jobs.config_set("maxmemory", 1)
            cluster.jobs.config_resetstat()
            wait_until("heartbeats are refused", lambda: _out_of_memory(cluster) > 1)
            assert is_refusal(client.send("POST", "/embed/m", {"items": ["a text"]}))
            assert before <= _lasting(cluster)
            assert len(accepted) == _accepted(cluster)
            text_service.worker.resume()
            assert [result_of(future).status_code for future in accepted] == [200] * len(accepted)
    finally:
        text_service.worker.resume()
        cluster.jobs.config_set("maxmemory", 0)
    assert cluster.contents() == registered
    assert client.send("POST", "/embed/m", {"items": ["a text"]}).status_code == 200


def _accepted(cluster: Cluster) -> int:
    """Jobs on the queue server."""
    streams: Any = cluster.jobs.keys(ShardKeys().stream("*"))
    return sum(int(str(cluster.jobs.xlen(name))) for name in streams)


def _out_of_memory(cluster: Cluster) -> int:
    """Commands that the queue server refused because it was out of memory."""
    statistics: Any = cluster.jobs.info("errorstats")
    return int(statistics.get("errorstat_OOM", {}).get("count", 0))


def _lasting(cluster: Cluster) -> set[bytes]:
    """The keys without a time to live, which must not be evicted."""
    keys: Any = cluster.jobs.keys("*")
    return {key for key in keys if cluster.jobs.ttl(key) == -1}
