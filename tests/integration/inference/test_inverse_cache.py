"""Caches of inverses and maps: computed once, bounded, and dispensable."""

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest

from stitchwork.errors import QueueUnavailableError
from stitchwork.geometry.bridges import BridgeName
from stitchwork.geometry.classifier import mlp
from stitchwork.geometry.frame import Frame
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, PairMap, Translator
from stitchwork.redis import PREFIX
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space
from stitchwork.telemetry import Metrics
from tests.conftest import Pair
from tests.support import machine
from tests.support.metric_samples import sample_value


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    return Registry(registry_server, durable=registry_server.confirms_writes(), stale_seconds=60)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def inverses(queue_server: RedisClient, metrics: Metrics) -> Iterator[InverseCache]:
    cache = InverseCache(queue_server, threads=2, metrics=metrics)
    yield cache
    cache.close()


@pytest.fixture
def spaces(registry: Registry, pair: Pair) -> tuple[Space, Space]:
    records = []
    for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
        _, entry = registry.declare_space(SpaceDeclaration(name, "S", anchors=anchors))
        assert entry.record is not None
        records.append(entry.record)
    return records[0], records[1]


def translator(registry: Registry, inverses: InverseCache, max_bytes: int = 1 << 20) -> Translator:
    return Translator(registry, inverses, max_bytes)


@pytest.mark.parametrize("bridge", ["ridge", "irp"])
def test_inverse_with_concurrent_callers_is_computed_once(
    registry: Registry,
    inverses: InverseCache,
    metrics: Metrics,
    queue_server: RedisClient,
    spaces: tuple[Space, Space],
    bridge: BridgeName,
) -> None:
    # A second cache shares only the server with the first, like that of another process.
    other = InverseCache(queue_server, threads=2, metrics=metrics)

    def computations() -> float:
        return sample_value(metrics, "cache_lookups_total", cache="inverse", result="miss")

    barrier = threading.Barrier(40)

    def pair_map(i: int) -> PairMap:
        maps = translator(registry, (inverses, other)[i % 2])
        barrier.wait()
        return maps.pair_map(*spaces, bridge)

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(pair_map, range(40)))
    assert computations() == 1
    queue_server.redis.flushall()
    translator(registry, inverses).pair_map(*spaces, bridge)
    assert computations() == 2, "an evicted inverse is recomputed"
    other.close()


@pytest.mark.parametrize("damage", ["flipped", "cut", "pickle"])
def test_cached_inverse_with_damaged_bytes_is_recomputed(
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
    rows = translator(registry, inverses).pair_map(*spaces, "ridge").apply(pair.x).rows
    np.testing.assert_array_equal(rows, expected)
    assert sample_value(metrics, "corrupt_inverses_total") == 1
    assert queue_server.redis.hget(key, "0") == good, "the damaged copy is replaced"


def test_map_without_the_cache_server_is_computed(
    registry: Registry, spaces: tuple[Space, Space], pair: Pair
) -> None:
    unreachable = RedisClient("unix:///nowhere/at/all.sock", 0.5, QueueUnavailableError)
    inverses = InverseCache(unreachable, threads=1)
    rows = translator(registry, inverses).pair_map(*spaces, "ridge").apply(pair.x).rows
    assert np.isfinite(rows).all()
    inverses.close()


def test_keys_with_a_lifetime_are_cached_inverses_only(
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


def test_map_cache_when_full_drops_the_least_recently_used(
    registry: Registry, inverses: InverseCache, spaces: tuple[Space, Space]
) -> None:
    large = translator(registry, inverses)
    assert large.pair_map(*spaces, "ridge") is large.pair_map(*spaces, "ridge")
    small = translator(registry, inverses, max_bytes=1)
    first = small.pair_map(*spaces, "ridge")
    small.pair_map(*spaces, "irp")
    assert small.pair_map(*spaces, "ridge") is not first


def test_inverse_that_is_done_when_submitted_does_not_deadlock(
    registry: Registry, queue_server: RedisClient, spaces: tuple[Space, Space]
) -> None:
    class ImmediatePool(ThreadPoolExecutor):
        """A pool whose work is done when it is submitted."""

        def submit(self, *work: Any, **options: Any) -> Future[Any]:
            future = super().submit(*work, **options)
            wait([future])
            return future

    inverses = InverseCache(queue_server, 1, pool=ImmediatePool(1))

    def get() -> None:
        inverses.get("ridge", spaces[0], lambda: registry.frame(spaces[0]))

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    thread.join(machine.deadline(20))
    assert not thread.is_alive()


def test_lock_of_a_dead_process_delays_only_its_own_inverse(
    registry: Registry, queue_server: RedisClient, spaces: tuple[Space, Space]
) -> None:
    first, second = spaces
    inverses = InverseCache(queue_server, threads=1)
    lock = f"{PREFIX}inverse:ridge:{first.version}:lock"
    queue_server.redis.set(lock, b"of a dead process", ex=600)
    blocked = inverses.start("ridge", first, lambda: registry.frame(first))
    inverses.get("ridge", second, lambda: registry.frame(second))
    assert queue_server.redis.exists(lock), "it is the other's still"
    assert not blocked.done()
    # What remains of its lifetime passes at once.
    queue_server.redis.pexpire(lock, 1)
    assert blocked.result(machine.deadline(60)).matrix.size
    inverses.close()


def test_lock_is_renewed_while_an_inverse_is_computed(
    registry: Registry, queue_server: RedisClient, spaces: tuple[Space, Space]
) -> None:
    space, computing, release = spaces[0], threading.Event(), threading.Event()
    counted = [Metrics(), Metrics()]
    one, other = (InverseCache(queue_server, 1, each, lock_seconds=0.4) for each in counted)

    def slow_frame() -> Frame:
        computing.set()
        assert release.wait(machine.deadline(20))
        return registry.frame(space)

    first = one.start("ridge", space, slow_frame)
    assert computing.wait(machine.deadline(20))
    second = other.start("ridge", space, lambda: registry.frame(space))
    with pytest.raises(TimeoutError):
        second.result(1.5)
    release.set()
    assert np.array_equal(
        second.result(machine.deadline(20)).matrix, first.result(machine.deadline(20)).matrix
    )
    misses = [
        sample_value(each, "cache_lookups_total", cache="inverse", result="miss")
        for each in counted
    ]
    assert misses == [1, 0]
    for cache in (one, other):
        cache.close()


def test_head_cache_is_bounded_by_bytes(registry: Registry, spaces: tuple[Space, Space]) -> None:
    rng = np.random.default_rng(0)
    width = spaces[1].dim
    heads = []
    for i in range(4):
        weight = rng.normal(size=(100, width)).astype(np.float32)
        classifier = mlp([(weight, np.zeros(100, np.float32))])
        labels = [str(label) for label in range(100)]
        definition = define_head(classifier, labels)
        _, entry = registry.declare_head(f"h{i}", spaces[1].id, definition)
        assert entry.record
        heads.append(entry.record)
    size = 100 * (width + 1) * 4
    two = ClassifierCache(registry, 2 * size)
    first = two.get(heads[0])
    assert first.nbytes == size
    assert two.get(heads[1]) is not None
    assert two.get(heads[0]) is first
    two.get(heads[2])
    two.get(heads[3])
    assert two.get(heads[0]) is not first, "two others are cached"
    none = ClassifierCache(registry, 1024)
    assert none.get(heads[0]).nbytes == size, "a head that is larger than the cache is served"
