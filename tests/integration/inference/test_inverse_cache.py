"""Inverses and fused maps: computed once, cached, and never the reason that there is no answer."""

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest

from stitchwork.errors import QueueUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import PairMap, Translator
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space
from stitchwork.telemetry import Metrics
from tests.conftest import Pair
from tests.support.metric_samples import sample_value


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    return Registry(registry_server, durable=True, stale_seconds=60)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def inverses(queue_server: RedisClient, metrics: Metrics) -> Iterator[InverseCache]:
    found = InverseCache(queue_server, threads=2, metrics=metrics)
    yield found
    found.close()


@pytest.fixture
def spaces(registry: Registry, pair: Pair) -> tuple[Space, Space]:
    found = []
    for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
        _, entry = registry.declare_space(SpaceDeclaration(name, "S", anchors=anchors))
        assert entry.record is not None
        found.append(entry.record)
    return found[0], found[1]


def translator(registry: Registry, inverses: InverseCache, most: int = 1 << 20) -> Translator:
    return Translator(registry, inverses, most)


@pytest.mark.parametrize("bridge", ["ridge", "irp"])
def test_however_many_ask_one_inverse_is_computed(
    registry: Registry,
    inverses: InverseCache,
    metrics: Metrics,
    queue_server: RedisClient,
    spaces: tuple[Space, Space],
    bridge: BridgeName,
) -> None:
    # Another process, as far as the cache can tell.
    other = InverseCache(queue_server, threads=2, metrics=metrics)

    def computed() -> float:
        return sample_value(metrics, "cache_lookups_total", cache="inverse", result="miss")

    together = threading.Barrier(40)

    def ask(i: int) -> PairMap:
        mine = translator(registry, (inverses, other)[i % 2])
        together.wait()
        return mine.pair_map(*spaces, bridge)

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(ask, range(40)))
    assert computed() == 1
    queue_server.redis.flushall()
    translator(registry, inverses).pair_map(*spaces, bridge)
    assert computed() == 2, "a lost cache is filled again"
    other.close()


@pytest.mark.parametrize("damage", ["flipped", "cut", "pickle"])
def test_damaged_bytes_are_noticed_and_computed_again(
    registry: Registry,
    inverses: InverseCache,
    metrics: Metrics,
    queue_server: RedisClient,
    spaces: tuple[Space, Space],
    pair: Pair,
    damage: str,
) -> None:
    expected = translator(registry, inverses).pair_map(*spaces, "ridge").apply(pair.x).rows
    key = f"{PREFIX}inverse:ridge:{spaces[0].version}"
    good = queue_server.redis.hget(key, "0")
    assert isinstance(good, bytes)
    middle = len(good) // 2
    bad = {
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "cut": good[:middle],
        "pickle": pickle.dumps(np.eye(2)),
    }[damage]
    queue_server.redis.hset(key, "0", bad)
    found = translator(registry, inverses).pair_map(*spaces, "ridge").apply(pair.x).rows
    np.testing.assert_array_equal(found, expected)
    assert sample_value(metrics, "corrupt_inverses_total") == 1
    assert queue_server.redis.hget(key, "0") == good, "the damaged copy was replaced"


def test_without_the_cache_there_is_still_an_answer(
    registry: Registry, spaces: tuple[Space, Space], pair: Pair
) -> None:
    nowhere = RedisClient("unix:///nowhere/at/all.sock", 0.5, QueueUnavailableError)
    inverses = InverseCache(nowhere, threads=1)
    rows = translator(registry, inverses).pair_map(*spaces, "ridge").apply(pair.x).rows
    assert np.isfinite(rows).all()
    inverses.close()


def test_only_cached_inverses_can_be_evicted(
    registry: Registry,
    inverses: InverseCache,
    queue_server: RedisClient,
    spaces: tuple[Space, Space],
) -> None:
    translator(registry, inverses).pair_map(*spaces, "ridge")
    lifetimes = {key: queue_server.redis.ttl(key) for key in queue_server.redis.scan_iter()}
    assert lifetimes
    for key, seconds in lifetimes.items():
        assert (seconds > 0) == (b":inverse:" in key)


def test_fused_maps_are_kept_within_bounds(
    registry: Registry, inverses: InverseCache, spaces: tuple[Space, Space]
) -> None:
    kept = translator(registry, inverses)
    assert kept.pair_map(*spaces, "ridge") is kept.pair_map(*spaces, "ridge")
    small = translator(registry, inverses, most=1)
    first = small.pair_map(*spaces, "ridge")
    small.pair_map(*spaces, "irp")
    assert small.pair_map(*spaces, "ridge") is not first, "the least recently used went"


def test_a_pool_that_is_through_at_once_holds_nobody_up(
    registry: Registry,
    inverses: InverseCache,
    spaces: tuple[Space, Space],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get() -> None:
        inverses.get("ridge", spaces[0], lambda: registry.frame(spaces[0]))

    get()  # from now on it is read from the cache, in no time
    submit = inverses._pool.submit

    def through(*work: Any) -> Future[Any]:
        future = submit(*work)
        wait([future])
        return future

    monkeypatch.setattr(inverses._pool, "submit", through)
    asking = threading.Thread(target=get, daemon=True)
    asking.start()
    asking.join(20)
    assert not asking.is_alive()
