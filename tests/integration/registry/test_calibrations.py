"""Calibrations belong to versions: they go with the head's, and are not looked at by others."""

import numpy as np
import pytest

from stitchwork.errors import NotReadyError, RegistryUnavailableError
from stitchwork.geometry.calibration import Calibration
from stitchwork.geometry.classifier import mlp
from stitchwork.redis.client import RedisClient
from stitchwork.registry.calibrations import Calibrations
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats, Head, Space
from tests.conftest import Pair
from tests.support.servers import ServerBinary, ServerProcess

LEARNT = Calibration(0.5, -0.25)


@pytest.fixture
def registry(registry_server: RedisClient, server_binary: ServerBinary) -> Registry:
    return Registry(registry_server, durable=server_binary.has_waitaof, stale_seconds=60)


def space(registry: Registry, name: str, anchors: Floats) -> Space:
    _, entry = registry.declare_space(SpaceDeclaration(name, "S", anchors=anchors))
    assert entry.record is not None
    return entry.record


def head(registry: Registry, seed: int = 0) -> Head:
    weight = np.random.default_rng(seed).normal(size=(2, 32)).astype(np.float32)
    definition = define_head(mlp(((weight, np.zeros(2, np.float32)),)), ["a", "b"])
    _, entry = registry.declare_head("h", "y", definition)
    assert entry.record is not None
    return entry.record


def test_calibration_applies_to_its_versions_only(registry: Registry, pair: Pair) -> None:
    x, y = space(registry, "x", pair.x_anchors), space(registry, "y", pair.y_anchors)
    used = head(registry)
    stored = registry.calibrations
    assert stored.get(x, y, used, "ridge") is None
    stored.put(x, y, used, "ridge", LEARNT, 50)
    assert stored.get(x, y, used, "ridge") == LEARNT
    assert stored.get(x, y, used, "irp") is None
    assert stored.get(y, y, used, "ridge") is None
    moved = space(registry, "x", pair.x_anchors + np.float32(1))
    assert stored.get(moved, y, used, "ridge") is None
    assert head(registry) == used
    assert stored.get(x, y, used, "ridge") == LEARNT, "the same head again changes nothing"
    other_process = Registry(registry.server, durable=False, stale_seconds=60)
    assert other_process.calibrations.get(x, y, used, "ridge") == LEARNT


def test_new_version_of_a_head_drops_calibrations_and_accepts_none_of_the_old(
    registry: Registry, pair: Pair
) -> None:
    x, y = space(registry, "x", pair.x_anchors), space(registry, "y", pair.y_anchors)
    old = head(registry)
    registry.calibrations.put(x, y, old, "ridge", LEARNT, 50)
    new = head(registry, seed=1)
    assert registry.calibrations.get(x, y, new, "ridge") is None
    with pytest.raises(NotReadyError, match="declared anew"):
        registry.calibrations.put(x, y, old, "ridge", LEARNT, 50)
    registry.calibrations.put(x, y, new, "ridge", LEARNT, 50)
    registry.heads.delete("h")
    assert not registry.server.redis.keys("*calibrations*")


def test_calibrations_of_an_old_target_are_dropped_first(registry: Registry, pair: Pair) -> None:
    x, y = space(registry, "x", pair.x_anchors), space(registry, "y", pair.y_anchors)
    used = head(registry)
    stored = Calibrations(registry.changes, registry.heads, registry.lease, max_per_head=3)
    stored.put(x, y, used, "ridge", LEARNT, 50)
    moved = space(registry, "y", pair.y_anchors + np.float32(1))
    stored.put(x, moved, used, "ridge", LEARNT, 50)
    key = registry.heads.key("h", "calibrations")
    assert registry.server.redis.hlen(key) == 1
    for bridge in ("exp", "irp", "none", "ridge"):
        stored.put(x, moved, used, bridge, LEARNT, 50)
    assert registry.server.redis.hlen(key) == 3
    assert stored.get(x, moved, used, "ridge") == LEARNT


def test_last_known_calibration_is_used_while_the_registry_is_unavailable(
    registry_process: ServerProcess, registry_server: RedisClient, pair: Pair
) -> None:
    impatient = RedisClient(registry_process.url, 0.2, RegistryUnavailableError)
    registry = Registry(impatient, durable=False, stale_seconds=60)
    x, y = space(registry, "x", pair.x_anchors), space(registry, "y", pair.y_anchors)
    used = head(registry)
    registry.calibrations.put(x, y, used, "ridge", LEARNT, 50)
    assert registry.calibrations.get(x, y, used, "ridge") == LEARNT
    registry_process.pause()
    try:
        assert registry.calibrations.get(x, y, used, "ridge") == LEARNT
        assert registry.calibrations.get(x, y, used, "irp") is None
        with pytest.raises(RegistryUnavailableError):
            registry.calibrations.put(x, y, used, "ridge", LEARNT, 50)
    finally:
        registry_process.resume()
        impatient.close()
