import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from stitchwork.errors import (
    NotReadyError,
    QueueUnavailableError,
    RegistryUnavailableError,
    ResourceInUseError,
    UnknownResourceError,
    VersionMismatchError,
)
from stitchwork.redis import PREFIX
from stitchwork.redis.client import Check, RedisClient
from stitchwork.registry.change_log import ChangeLog
from stitchwork.registry.entries import Condition, Entry, Outcome, Write
from stitchwork.registry.read_lease import ReadLease
from stitchwork.registry.registration_parts import read_parts, save_part
from stitchwork.registry.repository import Repository
from stitchwork.resources import AnchorSet, Head, LinearLayer, Registration
from tests.support.servers import REGISTRY_FLAGS, ServerBinary, ServerProcess


def make_head(id_: str = "h", version: str = "v1", space: str = "s") -> Head:
    return Head(
        id=id_,
        version=version,
        space=space,
        dim=2,
        labels=("a", "b"),
        layers=(LinearLayer(inputs=2, outputs=2),),
        source="fit",
    )


def replacement(head: Head) -> Callable[[Entry[Head]], Write[Head]]:
    def decide(current: Entry[Head]) -> Write[Head]:
        if current.version == head.version:
            return Write(Outcome.SAME, current.record)
        outcome = Outcome.REPLACED if current.record else Outcome.CREATED
        return Write(outcome, head, arrays={"w": np.full(2, len(head.version), np.float32)})

    return decide


def repository(
    server: RedisClient, *, aof_timeout_ms: int, stale_seconds: float
) -> Repository[Head]:
    changes = ChangeLog(server, aof_timeout_ms=aof_timeout_ms)
    return Repository(changes, "head", Head, ReadLease(), stale_seconds=stale_seconds)


@pytest.fixture
def heads(registry_server: RedisClient, server_binary: ServerBinary) -> Repository[Head]:
    aof_timeout_ms = aof_timeout_on(server_binary)
    return repository(registry_server, aof_timeout_ms=aof_timeout_ms, stale_seconds=60)


def aof_timeout_on(server_binary: ServerBinary) -> int:
    """Milliseconds to wait for the append-only file; 0 on servers that cannot promise it."""
    return 1000 if server_binary.has_waitaof else 0


def test_put_creates_keeps_and_replaces(heads: Repository[Head]) -> None:
    assert heads.put("h", replacement(make_head()))[0] is Outcome.CREATED
    assert heads.put("h", replacement(make_head()))[0] is Outcome.SAME
    assert heads.put("h", replacement(make_head(version="v22")))[0] is Outcome.REPLACED
    (result,), stale = heads.ready("h")
    assert (result.version, stale) == ("v22", False)


def test_replaced_version_stays_readable_for_a_limited_time(
    heads: Repository[Head], registry_server: RedisClient
) -> None:
    heads.put("h", replacement(make_head()))
    heads.put("h", replacement(make_head(version="v22")))
    np.testing.assert_array_equal(heads.arrays("h", "v1")["w"], [2, 2])
    lifetimes = [registry_server.redis.ttl(heads.key("h", "arrays", v)) for v in ("v1", "v22")]
    assert lifetimes[0] > 0
    assert lifetimes[1] == -1


def test_replaced_version_that_is_put_again_stays_for_good(
    heads: Repository[Head], registry_server: RedisClient
) -> None:
    for version in ("v1", "v22", "v1"):
        heads.put("h", replacement(make_head(version=version)))
    assert registry_server.redis.ttl(heads.key("h", "arrays", "v1")) == -1


def test_put_under_a_condition_that_fails_raises(heads: Repository[Head]) -> None:
    with pytest.raises(VersionMismatchError, match="nothing is registered"):
        heads.put("h", replacement(make_head()), Condition(match=frozenset({"v1"})))
    heads.put("h", replacement(make_head()), Condition(absent=True))
    with pytest.raises(VersionMismatchError, match="version v9 was expected, version v1 stands"):
        heads.put("h", replacement(make_head(version="v2")), Condition(match=frozenset({"v9"})))
    with pytest.raises(VersionMismatchError, match="exists already"):
        heads.put("h", replacement(make_head(version="v2")), Condition(absent=True))
    heads.put("h", replacement(make_head(version="v2")), Condition(match=frozenset({"v1"})))
    heads.delete("h", Condition(match=frozenset({"v2"})))
    with pytest.raises(UnknownResourceError):
        heads.get("h")


def test_concurrent_writers_succeed_in_turn(heads: Repository[Head]) -> None:
    outcomes: list[Outcome] = []
    start = threading.Barrier(8)

    def write() -> None:
        start.wait()
        outcomes.append(heads.put("h", replacement(make_head()), Condition())[0])

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(o.value for o in outcomes) == ["created", *["same"] * 7]


def test_pages_list_all_ids_in_order(heads: Repository[Head]) -> None:
    names = [f"h{i:02}" for i in range(7)]
    for name in reversed(names):
        heads.put(name, replacement(make_head(name)))
    commands: list[str] = []
    cursor: str | None = None
    while True:
        page = heads.page(3, cursor)
        commands += [entry.id for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            break
    assert commands == names


def test_delete_of_a_parent_with_dependents_raises(registry_server: RedisClient) -> None:
    sets = Repository(ChangeLog(registry_server), "space", AnchorSet, ReadLease(), stale_seconds=0)
    heads = repository(registry_server, aof_timeout_ms=0, stale_seconds=0)
    parent = AnchorSet(id="s", version="v", modality="vector", size=2)
    sets.put("s", lambda _: Write(Outcome.CREATED, parent))
    heads.put("h", replacement(make_head()))
    with pytest.raises(ResourceInUseError, match="head:h"):
        sets.delete("s")
    heads.put("h", replacement(make_head(version="v2", space="other")))
    sets.delete("s")


def test_write_waits_for_the_append_only_file_on_its_own_connection(
    heads: Repository[Head], registry_server: RedisClient, server_binary: ServerBinary
) -> None:
    if not server_binary.has_waitaof:
        pytest.skip("Redis 7.0 has no WAITAOF")
    with registry_server.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        heads.put("h", replacement(make_head()))
        commands = []
        for command in monitor.listen():
            commands.append(command)
            if command["command"].startswith("WAITAOF"):
                break
    assert commands[-1]["command"] == "WAITAOF 1 0 1000"
    written = next(c for c in commands if c["command"].startswith("EVAL"))
    sender = ("client_address", "client_port", "client_type")
    assert [written[key] for key in sender] == [commands[-1][key] for key in sender]


def test_unconfirmed_write_raises(queue_server: RedisClient) -> None:
    # This server keeps no append-only file, so it cannot promise one.
    heads = repository(queue_server, aof_timeout_ms=100, stale_seconds=0)
    with pytest.raises(QueueUnavailableError, match=r"WAITAOF|append-only file"):
        heads.put("h", replacement(make_head()))
    assert not queue_server.confirms_writes()


def test_commit_with_a_failed_check_writes_nothing(registry_server: RedisClient) -> None:
    registry_server.redis.set(PREFIX + "a", "1")
    done = registry_server.commit([Check(("GET", PREFIX + "a"), "2")], [("SET", PREFIX + "b", "3")])
    assert not done
    assert registry_server.redis.get(PREFIX + "b") is None


def test_registration_advances_once_beside_the_ready_version(heads: Repository[Head]) -> None:
    heads.put("h", replacement(make_head()))
    registration = Registration(kind="head", id="h", version="v2", parent="space:s", total=4)
    heads.put("h", lambda current: Write(Outcome.ACCEPTED, current.record, registration))
    rows = {"rows": np.zeros((2, 3), np.float32)}
    half = registration.model_copy(update={"done": 2})
    assert save_part(heads, registration, half, rows)
    assert not save_part(heads, registration, half, rows), "someone else got further"
    entry = heads.get("h")
    assert entry.version == "v1"
    assert entry.registration is not None
    assert entry.registration.done == 2
    whole = half.model_copy(update={"done": 4})
    assert save_part(heads, entry.registration, whole, {"rows": np.ones((2, 3), np.float32)})
    result = np.concatenate([part["rows"] for part in read_parts(heads, registration)])
    np.testing.assert_array_equal(result[:, 0], [0, 0, 1, 1])


def test_ready_of_a_pending_registration_raises(heads: Repository[Head]) -> None:
    registration = Registration(kind="head", id="h", version="v2", parent="space:s")
    heads.put("h", lambda current: Write(Outcome.ACCEPTED, None, registration))
    with pytest.raises(NotReadyError, match="still being prepared"):
        heads.ready("h")


def test_last_known_records_serve_while_the_registry_is_unavailable(
    server_binary: ServerBinary,
) -> None:
    with TemporaryDirectory(prefix="sw") as folder:
        valkey = ServerProcess(Path(folder), REGISTRY_FLAGS, server_binary)
        server = RedisClient(valkey.url, 1.0, RegistryUnavailableError, failure_pause=0.0)
        aof_timeout_ms = aof_timeout_on(server_binary)
        heads = repository(server, aof_timeout_ms=aof_timeout_ms, stale_seconds=60)
        hasty = repository(server, aof_timeout_ms=aof_timeout_ms, stale_seconds=0)
        heads.put("h", replacement(make_head()))
        for table in (heads, hasty):
            table.ready("h")
        valkey.stop()
        (result,), stale = heads.ready("h")
        assert (result.version, stale) == ("v1", True)
        with pytest.raises(RegistryUnavailableError):
            hasty.ready("h")
        with pytest.raises(RegistryUnavailableError):
            heads.ready("never-used")
        with pytest.raises(RegistryUnavailableError):
            heads.put("h", replacement(make_head(version="v2")))
        valkey.start()
        assert heads.ready("h")[1] is False
        server.close()
        valkey.stop()
