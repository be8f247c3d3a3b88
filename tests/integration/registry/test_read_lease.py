"""Leases: records in memory serve without a read, and never outlive an acknowledged change."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from stitchwork.errors import RegistryUnavailableError
from stitchwork.geometry.calibration import Calibration
from stitchwork.geometry.classifier import mlp
from stitchwork.inference.resolve import resolve, resolve_in_memory
from stitchwork.redis.client import RedisClient
from stitchwork.registry import change_log
from stitchwork.registry.change_log import (
    LEASE_SECONDS,
    WAIT_SECONDS,
    ChangeLog,
    Position,
    boot_time,
)
from stitchwork.registry.change_log_start import KEYS, STATE
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.head_records import define_head
from stitchwork.registry.read_lease import ReadLease
from stitchwork.registry.registry import Registry
from tests.support import machine
from tests.support.change_logs import begin_change_log
from tests.support.proxy import Proxy
from tests.support.servers import REGISTRY_FLAGS, ServerBinary, ServerProcess
from tests.support.waiting import wait_until

K, WIDTH = 20, 8


def put_space(registry: Registry, id_: str, seed: int) -> str:
    anchors = np.random.default_rng(seed).normal(size=(K, WIDTH)).astype(np.float32)
    _, entry = registry.declare_space(SpaceDeclaration(id_, "S", anchors=anchors))
    assert entry.version is not None
    return entry.version


def put_head(registry: Registry, seed: int) -> str:
    weight = np.random.default_rng(seed).normal(size=(2, WIDTH)).astype(np.float32)
    definition = define_head(mlp(((weight, np.zeros(2, np.float32)),)), ["a", "b"])
    _, entry = registry.declare_head("h", "y", definition)
    assert entry.version is not None
    return entry.version


def target_version(registry: Registry) -> str | None:
    """The version of y that a request uses without a read; None if it takes one."""
    resolution = resolve_in_memory(registry, source="x", target="y")
    return resolution.destination.version if resolution else None


def is_granted(registry: Registry) -> bool:
    return registry.lease.is_valid


@contextmanager
def reader(server: RedisClient) -> Iterator[Registry]:
    """A registry as an API process has it, with a lease."""
    registry = Registry(server, durable=False, stale_seconds=60)
    registry.lease_keeper.start()
    try:
        wait_until("it has a lease", lambda: is_granted(registry))
        yield registry
    finally:
        registry.lease_keeper.stop()


@pytest.fixture
def writer(registry_server: RedisClient) -> Registry:
    """A registry without a lease, with spaces x and y."""
    registry = Registry(registry_server, durable=False, stale_seconds=60)
    put_space(registry, "x", 0)
    put_space(registry, "y", 1)
    return registry


def count_commands(server: RedisClient) -> int:
    stats = server.redis.info("commandstats")
    names = ("hget", "hmget", "get", "hgetall", "scard")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


def test_resolution_is_in_memory_once_it_was_read(
    registry_server: RedisClient, writer: Registry
) -> None:
    put_head(writer, 0)
    with reader(registry_server) as registry:
        assert target_version(registry) is None
        expected = resolve(registry, source="x", head="h")
        assert resolve_in_memory(registry, source="x", head="h") == expected
        assert resolve_in_memory(registry, source="x", target="y") is not None
        assert resolve_in_memory(registry, head="h") is None, "its calibration was not read"
    assert target_version(registry) is None, "the lease has ended"


def test_registry_without_a_lease_resolves_nothing_in_memory(writer: Registry) -> None:
    resolve(writer, source="x", target="y")
    assert target_version(writer) is None


def test_steady_state_reads_nothing(registry_server: RedisClient, writer: Registry) -> None:
    with reader(registry_server) as registry:
        resolve(registry, source="x", target="y")
        stop = threading.Event()
        start, before = time.monotonic(), count_commands(registry_server)
        requests = 10_000
        resolved = sum(target_version(registry) is not None for _ in range(requests))
        stop.wait(1.0)
        resolved += sum(target_version(registry) is not None for _ in range(requests))
        calls, seconds = count_commands(registry_server) - before, time.monotonic() - start
    assert resolved == 2 * requests
    # A renewal reads the state of the log, twice a second and once more after a change.
    assert calls <= 4 * seconds + 4


def test_change_is_applied_everywhere_when_the_write_returns(
    registry_server: RedisClient, writer: Registry
) -> None:
    with reader(registry_server) as one, reader(registry_server) as two:
        for seed in range(2, 12):
            for registry in (one, two):
                resolve(registry, source="x", target="y")
                assert target_version(registry) is not None
            version = put_space(writer, "y", seed)
            for registry in (one, two):
                assert target_version(registry) is None
                assert resolve(registry, source="x", target="y").destination.version == version


def test_changes_of_heads_calibrations_and_deletions_are_applied(
    registry_server: RedisClient, writer: Registry
) -> None:
    put_head(writer, 0)
    with reader(registry_server) as registry:
        used = resolve(registry, source="x", head="h")
        assert used.head is not None
        assert used.target is not None
        calibration = Calibration(0.5, -0.25)
        writer.calibrations.put(used.source, used.target, used.head, "ridge", calibration, 50)
        assert resolve_in_memory(registry, source="x", head="h") is None
        assert resolve(registry, source="x", head="h", bridge="ridge").calibration == calibration
        version = put_head(writer, 1)
        assert resolve_in_memory(registry, source="x", head="h", bridge="ridge") is None
        again = resolve(registry, source="x", head="h", bridge="ridge")
        assert again.head is not None
        assert (again.head.version, again.calibration) == (version, None)
        writer.heads.delete("h")
        assert resolve_in_memory(registry, source="x", head="h", bridge="ridge") is None


def test_same_version_is_acknowledged_after_readers_have_applied_it(
    registry_server: RedisClient, writer: Registry
) -> None:
    """A second PUT of a version confirms it, so it too waits for processes that lag."""
    lagging, lease = ChangeLog(registry_server), ReadLease()
    position = lagging.renew("lagging", lease.position, settled=False).position
    assert lagging.renew("lagging", position, settled=False).granted
    start, times = boot_time(), []

    def put() -> None:
        put_space(writer, "y", 5)
        times.append(boot_time() - start)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(times) >= LEASE_SECONDS


def test_write_waits_once_for_a_process_that_died(
    registry_server: RedisClient, writer: Registry
) -> None:
    changes = ChangeLog(registry_server)
    position = changes.renew("dead", Position("", 0), settled=False).position
    assert changes.renew("dead", position, settled=False).granted
    times = []
    for seed in (5, 6):
        start = boot_time()
        put_space(writer, "y", seed)
        times.append(boot_time() - start)
    assert times[0] >= WAIT_SECONDS
    assert times[1] < machine.deadline(1.0)


def test_process_that_missed_too_many_changes_drops_everything(
    registry_server: RedisClient, writer: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "MAX_CHANGES", 2)
    changes = ChangeLog(registry_server)
    position = changes.renew("slow", Position("", 0), settled=False).position
    for number in range(4):
        changes.commit([], [], [f"space:{number}"])
    missed = changes.renew("slow", position, settled=False)
    assert not missed.granted
    assert registry_server.redis.zcard(registry_server.key(KEYS[1])) == 2
    assert changes.renew("slow", missed.position, settled=False).granted


def test_record_read_before_a_change_is_not_added_after_it(
    registry_server: RedisClient, writer: Registry
) -> None:
    """A slow reply must not bring back what a change has dropped in the meantime."""
    with reader(registry_server) as registry:
        before = registry.lease.position
        (entry,) = registry.spaces.read("y")
        put_space(writer, "y", 5)
        registry.spaces.ready_record(entry, before)
        assert registry.spaces.current("y") is None
        resolve(registry, source="x", target="y")
        assert registry.spaces.current("y") is not None


def test_lost_notice_delays_the_acknowledgement_by_a_renewal(
    registry_process: ServerProcess, registry_server: RedisClient, writer: Registry
) -> None:
    with TemporaryDirectory(prefix="sw") as folder:
        proxy = Proxy(Path(folder) / "p.sock", registry_process.path)
        # Every reply on a connection that subscribes is dropped: no notice ever comes.
        proxy.drop_replies(b"SUBSCRIBE")
        server = RedisClient(proxy.url, 1.0, RegistryUnavailableError)
        with reader(server) as registry:
            resolve(registry, source="x", target="y")
            start = boot_time()
            version = put_space(writer, "y", 5)
            assert boot_time() - start < machine.deadline(LEASE_SECONDS)
            assert target_version(registry) is None
            assert resolve(registry, source="x", target="y").destination.version == version
        server.close()
        proxy.close()


@pytest.mark.parametrize("persistent", [True, False], ids=["append-only file", "memory"])
def test_restarted_registry_waits_for_leases_of_the_time_before(
    server_binary: ServerBinary, persistent: bool
) -> None:
    """Its leases may be lost, so the first write waits until all of them have run out."""
    flags = REGISTRY_FLAGS if persistent else ("--appendonly", "no", "--save", "")
    with TemporaryDirectory(prefix="sw") as folder:
        process = ServerProcess(Path(folder), flags, server_binary)
        server = RedisClient(process.url, 1.0, RegistryUnavailableError, failure_pause=0.0)
        begin_change_log(server)
        writer = Registry(server, durable=False, stale_seconds=60)
        put_space(writer, "x", 0)
        put_space(writer, "y", 1)
        with reader(server) as registry:
            version = resolve(registry, source="x", target="y").destination.version
            assert target_version(registry) == version
            # Its thread renews no more, as if it were cut off; its lease is still valid.
            registry.lease_keeper.stop()
            registry.lease.apply(
                ChangeLog(server).renew("cut off", registry.lease.position, settled=False),
                sent=(sent := boot_time()),
                verified=time.monotonic(),
            )
            process.stop(kill=True)
            process.start()
            put_space(writer, "x", 0)
            new = put_space(writer, "y", 2)
            assert boot_time() - sent >= LEASE_SECONDS
            assert new != version
            assert target_version(registry) is None, "the lease has run out"
        server.close()
        process.stop()


def test_flushed_registry_begins_another_epoch(
    registry_server: RedisClient, writer: Registry
) -> None:
    with reader(registry_server) as registry:
        resolve(registry, source="x", target="y")
        epoch = registry.lease.position.epoch
        registry_server.redis.flushall()
        put_space(writer, "x", 0)
        assert target_version(registry) is None
        assert registry.lease.position.epoch != epoch


def test_clock_of_boot_time_runs() -> None:
    start = boot_time()
    time.sleep(0.01)
    assert 0.01 <= boot_time() - start < machine.deadline(5)


def test_stopped_process_leaves_no_lease(registry_server: RedisClient, writer: Registry) -> None:
    with reader(registry_server):
        assert registry_server.redis.zcard(registry_server.key(KEYS[2])) == 1
    assert registry_server.redis.zcard(registry_server.key(KEYS[2])) == 0
    assert registry_server.redis.hget(registry_server.key(STATE), "epoch")
