"""The registry server or the queue server dies, falls silent, forgets, rots or runs out of room."""

import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stitchwork.redis.serialization import MAGIC, _checksum, unpack
from tests.chaos.conftest import REDIS_TIMEOUT, Crew
from tests.conftest import Pair, Valkey, make_pair
from tests.support.process_stage import Caller, Stage, is_stale, refused, rows_of
from tests.support.waiting import until

pytestmark = pytest.mark.drills

STALE = 3.0
CALL_BOUND = 3 * REDIS_TIMEOUT + 12.0
"""A call waits for the timeout twice at the registry and once at the queue server, at most; the
rest is for many at a time on a slow machine, and far from the 30 s that a request may take."""


def test_f5_the_registry_goes_away_and_comes_back(stage: Stage, pair: Pair) -> None:
    """F5: what was used serves stale for a set time, writes are 503, all recovers by itself."""
    api = stage.api(STITCHWORK_STALE_SECONDS=str(STALE), STITCHWORK_REDIS_TIMEOUT="1")
    with Caller(api.url) as caller:
        for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors), ("z", pair.y_anchors)):
            assert caller.put_space(name, anchors).status_code == 201
        began = time.monotonic()
        fresh = caller.translate(pair.x, "x", "y")
        answered = time.monotonic()
        assert not is_stale(fresh)

        stage.registry.stop(kill=True)
        stale = caller.translate(pair.x, "x", "y")
        assert is_stale(stale)
        np.testing.assert_array_equal(rows_of(stale), rows_of(fresh))
        assert refused(caller.translate(pair.x, "x", "z")), "z was not used here before"
        for told in (
            caller.put_space("x", pair.x_anchors + np.float32(1)),
            caller.put_space("new", pair.x_anchors),
            caller.send("DELETE", "/spaces/z"),
        ):
            assert told.status_code == 503
            assert refused(told)

        def too_old() -> bool:
            told = caller.translate(pair.x, "x", "y")
            assert refused(told) or (told.status_code == 200 and is_stale(told))
            return told.status_code == 503

        until("what is known is too old", too_old)
        assert time.monotonic() - began >= STALE
        assert time.monotonic() - answered < 10 * STALE

        stage.registry.start()
        until("it serves again", lambda: caller.translate(pair.x, "x", "y").is_success)
        again = caller.translate(pair.x, "x", "y")
        assert not is_stale(again)
        np.testing.assert_array_equal(rows_of(again), rows_of(fresh))
        assert caller.put_space("new", pair.x_anchors).status_code == 201
        assert api.process.poll() is None


def test_f5_the_queue_server_goes_away_while_an_inverse_is_waited_for(
    stage: Stage, pair: Pair
) -> None:
    """F5: the cache saves work, and is never the reason that there is no answer."""
    api = stage.api(STITCHWORK_REDIS_TIMEOUT="1")
    with Caller(api.url) as caller, ThreadPoolExecutor(1) as pool:
        version = caller.put_space("x", pair.x_anchors).json()["version"]
        assert caller.put_space("y", pair.y_anchors).status_code == 201
        until("all inverses are cached", lambda: len(stage.inverses()) == 4)
        key = f"stitchwork:inverse:ridge:{version}"
        stage.jobs.set(f"{key}:lock", "another process")
        stage.jobs.delete(key)
        stage.jobs.config_resetstat()
        held = pool.submit(caller.translate, pair.x, "x", "y")

        def waits() -> bool:
            told: Any = stage.jobs.info("commandstats")
            return int(told.get("cmdstat_set", {}).get("calls", 0)) >= 3

        until("it waits for the other process", waits)
        stage.queue.stop(kill=True)
        assert rows_of(held.result(30)).shape == pair.y.shape


@pytest.mark.models
@pytest.mark.parametrize("which", ["registry", "queue"])
def test_f6_a_server_accepts_and_never_answers(crew: Crew, which: str) -> None:
    """F6: every call is bounded, by 503 or by what does not need the server; then all recovers."""
    server: Valkey = getattr(crew.stage, which)
    silent = which == "registry"
    m, rows = crew.anchors, crew.anchors[:3]
    text, ids = {"items": ["a text"]}, [f"f6-{which}-{i}" for i in range(3)]
    spare = [f"{id_}-spare" for id_ in ids]
    for id_ in (*ids, *spare):
        assert crew.caller.put_space(id_, m).status_code == 201
    for warm in (crew.caller.translate(rows, "m", "n"), crew.caller.send("POST", "/embed/m", text)):
        assert warm.status_code == 200, warm.text

    def calls(caller: Caller, i: int) -> list[tuple[str, int, Future[httpx.Response]]]:
        away, queued = (503, 200) if silent else (200, 503)
        wanted: list[tuple[str, int, Callable[[], httpx.Response]]] = [
            ("used pair", 200, lambda: caller.translate(rows, "m", "n")),
            ("new pair", away, lambda: caller.translate(rows, ids[i], "m")),
            ("put", 503 if silent else 201, lambda: caller.put_space(f"{ids[i]}-new", m)),
            (
                "delete",
                503 if silent else 204,
                lambda: caller.send("DELETE", f"/spaces/{spare[i]}"),
            ),
            ("list", away, lambda: caller.send("GET", "/spaces")),
            ("embed", queued, lambda: caller.send("POST", "/embed/m", text)),
            ("stitch", queued, lambda: caller.send("POST", "/stitch/m/h", text)),
            ("ready", 503, lambda: caller.send("GET", "/health/ready")),
            ("live", 200, lambda: caller.send("GET", "/health/live")),
        ]
        return [(name, status, pool.submit(call)) for name, status, call in wanted]

    with ThreadPoolExecutor(32) as pool, Caller(crew.api.url, CALL_BOUND) as caller:
        server.pause()
        try:
            # The client's own time limit bounds each; what takes longer fails here.
            for name, status, future in [call for i in range(3) for call in calls(caller, i)]:
                told = future.result()
                assert told.status_code == status, f"{name}: {told.text}"
                assert status != 503 or refused(told), name
                if silent and name in ("used pair", "embed", "stitch"):
                    assert is_stale(told), name
        finally:
            server.resume()
        until("it is ready again", caller.ready)

        def well() -> bool:
            told = [
                caller.translate(rows, "m", "n"),
                caller.send("POST", "/stitch/m/h", text),
                caller.send("POST", "/embed/m", text),
            ]
            return all(answer.is_success and not is_stale(answer) for answer in told)

        until("all serve again", well)
        assert caller.put_space(f"{ids[0]}-after", m).status_code == 201


def test_f7_the_cache_is_emptied_under_a_hundred_callers(stage: Stage) -> None:
    """F7: one inverse is computed for each space and bridge; the registry is as it was."""
    pair = make_pair(k=500, dims=(192, 256), latent=32)
    first = stage.api()
    with Caller(first.url) as caller:
        versions = {
            "ridge": caller.put_space("x", pair.x_anchors).json()["version"],
            "irp": caller.put_space("y", pair.y_anchors).json()["version"],
        }
        until("all inverses are cached", lambda: len(stage.inverses()) == 4)
        wanted = {b: rows_of(caller.translate(pair.x, "x", "y", b)) for b in versions}
    assert first.stop() == 0
    before = stage.contents()
    apis = [stage.api(), stage.api()]
    stage.jobs.config_set("notify-keyspace-events", "Kh")
    with stage.listener() as events:
        events.psubscribe("__keyspace@0__:stitchwork:inverse:*")
        assert events.get_message(timeout=5)["type"] == "psubscribe"
        stage.jobs.flushall()
        with ThreadPoolExecutor(100) as pool, Caller(apis[0].url) as a, Caller(apis[1].url) as b:
            asked = [("ridge", "irp")[i // 2 % 2] for i in range(100)]
            held = [
                pool.submit((a, b)[i % 2].translate, pair.x, "x", "y", bridge)
                for i, bridge in enumerate(asked)
            ]
            for bridge, future in zip(asked, held, strict=True):
                np.testing.assert_allclose(rows_of(future.result(30)), wanted[bridge], atol=1e-4)
        written: list[str] = []

        def all_are_written() -> bool:
            while (event := events.get_message(timeout=0.2)) is not None:
                if event["data"] == b"hset":
                    written.append(event["channel"].decode().partition(":")[2])
            return len(written) >= len(versions)

        until("they are cached again", all_are_written)
    assert sorted(written) == sorted(
        f"stitchwork:inverse:{bridge}:{version}" for bridge, version in versions.items()
    )
    # What was computed and not shared would be no HSET, but it would be said.
    assert not any("inverse cache unavailable" in api.said() for api in apis)
    assert stage.contents() == before


class Bomb:
    """A pickle of this leaves a file behind once it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self._path,)


def test_f9_cached_inverses_are_flipped_cut_or_replaced(stage: Stage, tmp_path: Path) -> None:
    """F9: the checksum fails, it is computed again, the answer is the same, and it is counted."""
    pair, trace = make_pair(), tmp_path / "loaded"
    bomb = pickle.dumps(Bomb(trace))
    damages: dict[str, Callable[[bytes], bytes]] = {
        "flipped": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        "cut": lambda data: data[: len(data) // 2],
        "empty": lambda data: b"",
        "pickle": lambda data: bomb,
        "signed-pickle": lambda data: MAGIC + _checksum(bomb) + bomb,
    }
    first = stage.api()
    keys, wanted = {}, {}
    with Caller(first.url) as caller:
        assert caller.put_space("y", pair.y_anchors).status_code == 201
        for i, name in enumerate(damages):
            version = caller.put_space(name, pair.x_anchors * np.float32(i + 1)).json()["version"]
            keys[name] = f"stitchwork:inverse:ridge:{version}"
        until("all are cached", lambda: len(stage.inverses()) == 2 * len(damages) + 2)
        for name in damages:
            wanted[name] = rows_of(caller.translate(pair.x, name, "y"))
    assert first.stop() == 0
    whole = {name: stage.cached(key) for name, key in keys.items()}
    for name, damage in damages.items():
        assert damage(whole[name]) != whole[name]
        stage.jobs.hset(keys[name], "0", damage(whole[name]))
    fresh = stage.api()
    with Caller(fresh.url) as caller:
        for count, name in enumerate(damages, 1):
            found = rows_of(caller.translate(pair.x, name, "y"))
            np.testing.assert_allclose(found, wanted[name], atol=1e-6)
            # The counter is this process's own; it says each time that it counts.
            assert fresh.said().count("failed its checksum") == count, name
            kept = stage.cached(keys[name])
            np.testing.assert_array_equal(
                unpack(kept)[0]["inverse"], unpack(whole[name])[0]["inverse"]
            )
    assert not trace.exists(), "the pickle was loaded"


@pytest.mark.models
def test_f20_the_queue_server_runs_out_of_memory(crew: Crew) -> None:
    """F20: new work is refused, what was accepted is answered, only cached inverses are evicted."""
    stage, caller = crew.stage, crew.caller
    rng = np.random.default_rng(20)
    for i in range(4):
        wide = rng.normal(size=(300, 512)).astype(np.float32)
        told = caller.put_space(f"f20-{i}", wide, anchor_set="f20")
        assert told.status_code == 201
    until("they are cached", lambda: len(stage.inverses()) >= 8)
    registered, text = stage.contents(), "word " * 60_000
    crew.worker.pause()
    try:
        before = _lasting(stage)
        used = int(stage.jobs.info("memory")["used_memory"])
        stage.jobs.config_resetstat()
        stage.jobs.config_set("maxmemory", used + 2 * 2**20)
        with ThreadPoolExecutor(60) as pool:
            body = {"items": [text], "truncate": True}
            held = [pool.submit(caller.send, "POST", "/stitch/m/h", body) for _ in range(60)]

            def settled() -> bool:
                return sum(not f.done() for f in held) == _accepted(stage) < len(held)

            until("the rest is refused", settled)
            early = [future.result() for future in held if future.done()]
            assert all(refused(answer) for answer in early)
            accepted = [future for future in held if not future.done()]
            assert len(accepted) > 10
            assert not stage.inverses(), "they made room first"
            assert int(stage.jobs.info("stats")["evicted_keys"]) > 0

            # From here on there is no room even for a process to say that it lives.
            stage.jobs.config_set("maxmemory", 1)
            stage.jobs.config_resetstat()
            until("the least is refused", lambda: _out_of_memory(stage) > 1)
            assert refused(caller.send("POST", "/embed/m", {"items": ["a text"]}))
            assert before <= _lasting(stage)
            assert len(accepted) == _accepted(stage)
            crew.worker.resume()
            assert [future.result(60).status_code for future in accepted] == [200] * len(accepted)
    finally:
        crew.worker.resume()
        stage.jobs.config_set("maxmemory", 0)
    assert stage.contents() == registered
    assert caller.send("POST", "/embed/m", {"items": ["a text"]}).status_code == 200


def _accepted(stage: Stage) -> int:
    """Jobs that lie on the queue server."""
    streams: Any = stage.jobs.hkeys("stitchwork:jobs")
    return sum(int(str(stage.jobs.xlen(b"stitchwork:jobs:" + name))) for name in streams)


def _out_of_memory(stage: Stage) -> int:
    """Commands that the queue server refused for want of memory."""
    told: Any = stage.jobs.info("errorstats")
    return int(told.get("errorstat_OOM", {}).get("count", 0))


def _lasting(stage: Stage) -> set[bytes]:
    """The keys that have no lifetime, and so must not be evicted."""
    keys: Any = stage.jobs.keys("*")
    return {key for key in keys if stage.jobs.ttl(key) == -1}
