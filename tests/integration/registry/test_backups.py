"""Backups: a whole registry as of one moment, verified before anything is changed."""

import itertools
import json
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from stitchwork.errors import (
    ConflictError,
    CorruptDataError,
    IncompatibleFormatError,
    RegistryUnavailableError,
)
from stitchwork.geometry.classifier import mlp
from stitchwork.redis.client import RedisClient
from stitchwork.registry import api_keys
from stitchwork.registry.backup_files import MANIFEST, open_backup
from stitchwork.registry.backups import BLOCKS, RECORDS, restore_backup, write_backup
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registration_parts import read_parts, save_part
from stitchwork.registry.registry import Registry
from stitchwork.registry.space_checks import DUE
from stitchwork.resources import Scope, TextEncoder
from tests.conftest import Pair
from tests.support import machine
from tests.support.change_logs import begin_change_log
from tests.support.servers import REGISTRY_FLAGS, VALKEY_9, ServerProcess, server_binary
from tests.support.waiting import wait_until


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    return Registry(registry_server, durable=False, stale_seconds=60)


@pytest.fixture(scope="module")
def other_process() -> Iterator[ServerProcess]:
    """A second server, of another kind than some of those that the tests run on."""
    with TemporaryDirectory(prefix="sw") as folder:
        process = ServerProcess(Path(folder), REGISTRY_FLAGS, server_binary(VALKEY_9))
        yield process
        process.stop()


@pytest.fixture
def other(other_process: ServerProcess) -> Iterator[Registry]:
    server = RedisClient(other_process.url, machine.deadline(5.0), RegistryUnavailableError)
    server.redis.flushall()
    begin_change_log(server)
    yield Registry(server, durable=False, stale_seconds=60)
    server.close()


def head(registry: Registry, id_: str = "h", seed: int = 0) -> None:
    weight = np.random.default_rng(seed).normal(size=(2, 32)).astype(np.float32)
    definition = define_head(mlp(((weight, np.zeros(2, np.float32)),)), ["a", "ü"])
    registry.declare_head(id_, "y", definition)


def fill(registry: Registry, pair: Pair) -> None:
    """A set with items, two spaces, a head, a key, and a registration with one part done."""
    registry.declare_anchor_set("texts", "text", items=["one", "two", "three"])
    for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
        registry.declare_space(SpaceDeclaration(name, "S", anchors=anchors))
    head(registry)
    registry.keys.add(api_keys.new("ops", [Scope.ADMIN])[1])
    encoder = TextEncoder(model="sentence-transformers/m")
    _, entry = registry.declare_space(SpaceDeclaration("slow", "texts", encoder))
    assert entry.registration
    advanced = entry.registration.model_copy(update={"done": 2})
    rows = np.ones((2, 4), np.float32)
    assert save_part(registry.spaces, entry.registration, advanced, {"rows": rows})


def content(server: RedisClient) -> dict[bytes, Any]:
    """All of a server but the log of changes and the version of API keys, which are its own."""
    values: dict[bytes, Any] = {}
    for key in server.redis.scan_iter("*"):
        if key.startswith(b"stitchwork:versions"):
            continue
        match server.redis.type(key):
            case b"hash":
                values[key] = server.redis.hgetall(key)
            case b"set":
                values[key] = server.redis.smembers(key)
            case b"zset":
                values[key] = server.redis.zrange(key, 0, -1, withscores=True)
            case b"string":
                values[key] = None
        values[key] = (values[key], server.redis.ttl(key))
    return values


def test_restored_registry_equals_the_one_that_was_backed_up(
    registry: Registry, other: Registry, pair: Pair, tmp_path: Path
) -> None:
    fill(registry, pair)
    before = registry.keys.version()
    written = write_backup(registry.server, tmp_path / "b")
    assert written.counts == {"anchor-set": 2, "space": 3, "head": 1, "API key": 1}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    restored = restore_backup(other.changes, tmp_path / "b")
    assert (restored, restored.incomplete) == (written, [])
    assert content(other.server) == content(registry.server)
    assert other.keys.version() not in (b"", before), "every process reads the keys again"
    (space,), _ = other.spaces.ready("x")
    assert np.array_equal(other.frame(space).unit_anchors, registry.frame(space).unit_anchors)
    (pending,) = [entry.registration for entry in other.spaces.read("slow")]
    assert pending
    assert pending.done == 2
    assert [len(part["rows"]) for part in read_parts(other.spaces, pending)] == [2]


def test_checks_that_were_due_or_in_progress_are_made_after_a_restore(
    registry: Registry, other: Registry, pair: Pair, tmp_path: Path
) -> None:
    fill(registry, pair)
    later = registry.server.now_ms() + 600_000
    registry.server.execute(("ZADD", registry.server.key(DUE), later, "x"))
    write_backup(registry.server, tmp_path / "b")
    other.declare_space(SpaceDeclaration("own", "T", anchors=pair.y_anchors))
    restore_backup(other.changes, tmp_path / "b", replace=True)
    assert content(other.server)[other.server.key(DUE).encode()] == ([(b"x", 0.0), (b"y", 0.0)], -1)
    assert other.space_checks.run() == 2
    for id_, compared in (("x", "y"), ("y", "x")):
        (space,), _ = other.spaces.ready(id_)
        assert [check.space for check in space.checks or ()] == [compared]


def test_registry_with_content_is_replaced_only_on_request(
    registry: Registry, other: Registry, pair: Pair, tmp_path: Path
) -> None:
    fill(registry, pair)
    write_backup(registry.server, tmp_path / "b")
    with pytest.raises(ConflictError, match="exists already"):
        write_backup(registry.server, tmp_path / "b")
    other.declare_space(SpaceDeclaration("own", "T", anchors=pair.y_anchors))
    (own,), _ = other.spaces.ready("own")
    before = content(other.server)
    with pytest.raises(ConflictError, match="--replace"):
        restore_backup(other.changes, tmp_path / "b")
    after = {key: value for key, value in content(other.server).items() if b":restore:" not in key}
    assert after == before
    restore_backup(other.changes, tmp_path / "b", replace=True)
    assert [entry.id for entry in other.spaces.page(10).entries] == ["slow", "x", "y"]
    key = other.spaces.key("own", "arrays", own.version)
    assert 0 < other.server.redis.ttl(key) <= 3600, "requests in progress may still read it"


def test_key_alone_keeps_a_registry_from_being_replaced(
    registry: Registry, other: Registry, tmp_path: Path
) -> None:
    write_backup(registry.server, tmp_path / "empty")
    other.keys.add(api_keys.new("ops", [Scope.ADMIN])[1])
    with pytest.raises(ConflictError, match="API keys"):
        restore_backup(other.changes, tmp_path / "empty")
    assert len(other.keys.list()) == 1


@pytest.mark.parametrize("member", [MANIFEST, RECORDS, BLOCKS, "blocks/00000001"])
def test_damaged_file_is_refused_before_anything_changes(
    registry: Registry, other: Registry, pair: Pair, tmp_path: Path, member: str
) -> None:
    fill(registry, pair)
    write_backup(registry.server, tmp_path / "good")
    data = bytearray((tmp_path / "good").read_bytes())
    with zipfile.ZipFile(tmp_path / "good") as archive:
        middle = archive.getinfo(member).header_offset + len(member) + 40
    data[middle] ^= 1
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(CorruptDataError, match=member):
        restore_backup(other.changes, tmp_path / "bad")
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptDataError, match="expected a complete file"):
        restore_backup(other.changes, tmp_path / "cut")
    assert content(other.server) == {}


def test_any_flipped_bit_is_refused_or_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.keys.add(api_keys.new("ops", [Scope.ADMIN])[1])
    write_backup(registry.server, tmp_path / "good")
    data = (tmp_path / "good").read_bytes()
    with open_backup(tmp_path / "good") as reader:
        good = {name: reader.read(name) for name in (RECORDS, BLOCKS)}
    bad = tmp_path / "bad"
    refused = 0
    for position, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        bad.write_bytes(changed)
        try:
            with open_backup(bad) as reader:
                reader.verify()
                assert {name: reader.read(name) for name in good} == good, (position, bit)
        except CorruptDataError:
            refused += 1
    assert refused > 4 * len(data)


def test_process_that_serves_from_memory_serves_what_was_restored(
    registry: Registry, pair: Pair, tmp_path: Path
) -> None:
    fill(registry, pair)
    (first,), _ = registry.spaces.ready("x")
    write_backup(registry.server, tmp_path / "b")
    registry.declare_space(SpaceDeclaration("x", "S", anchors=pair.x_anchors + np.float32(1)))
    reader = Registry(registry.server, durable=False, stale_seconds=60)
    reader.lease_keeper.start()
    try:
        wait_until("the lease", lambda: reader.lease.is_valid)
        (second,), _ = reader.spaces.ready("x")
        assert second.version != first.version
        restore_backup(registry.changes, tmp_path / "b", replace=True)
        assert reader.spaces.ready("x") == ([first], False), "at once"
    finally:
        reader.lease_keeper.stop()


def test_backup_of_a_later_release_is_refused_in_a_sentence(
    registry: Registry, other: Registry, tmp_path: Path
) -> None:
    write_backup(registry.server, tmp_path / "b")
    for field in ("format", "record_format"):
        changed = tmp_path / field
        with zipfile.ZipFile(tmp_path / "b") as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == MANIFEST:
                    manifest = json.loads(data)
                    data = json.dumps({**manifest, field: 99, "release": "9.0"}).encode()
                new.writestr(name, data)
        with pytest.raises(IncompatibleFormatError, match=r"release 9\.0 .* 99"):
            restore_backup(other.changes, changed)


def test_record_that_cannot_be_read_is_copied_as_it_is_and_named(
    registry: Registry, other: Registry, pair: Pair, tmp_path: Path
) -> None:
    fill(registry, pair)
    garbage = b"\xff\x00 no record"
    registry.server.redis.hset(registry.spaces.key("x"), "record", garbage)
    registry.server.redis.delete(registry.heads.key("h", "arrays", registry_version(registry, "h")))
    summary = write_backup(registry.server, tmp_path / "b")
    assert summary.incomplete == ["space:x", "head:h"]
    assert restore_backup(other.changes, tmp_path / "b").incomplete == summary.incomplete
    assert other.server.redis.hget(other.spaces.key("x"), "record") == garbage
    assert [entry.id for entry in other.spaces.page(10).entries] == ["slow", "y"]


def registry_version(registry: Registry, head_id: str) -> str:
    version = registry.heads.get(head_id).version
    assert version
    return version


def test_backup_during_changes_is_consistent(
    registry: Registry, other_process: ServerProcess, pair: Pair, tmp_path: Path
) -> None:
    fill(registry, pair)
    stop = threading.Event()
    rounds = 0

    def change() -> None:
        nonlocal rounds
        while not stop.is_set():
            rounds += 1
            moved = pair.x_anchors + np.float32(rounds)
            registry.declare_space(SpaceDeclaration("x", "S", anchors=moved))
            head(registry, seed=rounds)
            registry.declare_space(SpaceDeclaration("brief", f"B{rounds}", anchors=pair.y_anchors))
            registry.spaces.delete("brief")
            registry.anchor_sets.delete(f"B{rounds}")

    thread = threading.Thread(target=change)
    thread.start()
    paths = list[Path]()
    try:
        while len(paths) < 5 or rounds < 5:
            paths.append(tmp_path / str(len(paths)))
            assert write_backup(registry.server, paths[-1]).incomplete == []
    finally:
        stop.set()
        thread.join()
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, 5).astype(int)]
    # A restore waits until all leases have run out, so each has a database of its own.
    with ThreadPoolExecutor(len(chosen)) as pool:
        checks = [
            pool.submit(check_restored, other_process, database, path)
            for database, path in enumerate(chosen)
        ]
    for check in checks:
        check.result()


def check_restored(process: ServerProcess, database: int, path: Path) -> None:
    """Restore a backup into a database, and check that its records fit each other."""
    url = f"{process.url}?db={database}"
    with closing(RedisClient(url, machine.deadline(5.0), RegistryUnavailableError)) as server:
        server.redis.flushdb()
        other = Registry(server, durable=False, stale_seconds=60)
        restore_backup(other.changes, path)
        for entry in other.spaces.page(10).entries:
            if entry.record:
                assert len(other.frame(entry.record).unit_anchors) == entry.record.size
                (anchor_set,), _ = other.anchor_sets.ready(entry.record.anchor_set)
                assert anchor_set.version == entry.record.anchor_set_version
                assert f"space:{entry.id}" in other.anchor_sets.dependents(anchor_set.id)
        (restored,), _ = other.heads.ready("h")
        assert other.classifier(restored).n_outputs == 2
