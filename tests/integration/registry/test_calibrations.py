"""Calibrations belong to versions: they go with the head's, and are not looked at by others."""

import numpy as np
import pytest

from stitchwork.errors import NotReadyError, RegistryUnavailableError
from stitchwork.geometry.calibration import Calibration
from stitchwork.geometry.classifier import Classifier
from stitchwork.redis.client import RedisClient
from stitchwork.registry import calibrations
from stitchwork.registry.declarations import SpaceDeclaration
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
    layers = ((weight, np.zeros(2, np.float32)),)
    _, entry = registry.declare_head("h", "y", Classifier(layers), ["a", "b"])
    assert entry.record is not None
    return entry.record


def test_a_calibration_holds_for_its_versions_only(registry: Registry, pair: Pair) -> None:
    x, y = space(registry, "x", pair.x_anchors), space(registry, "y", pair.y_anchors)
    used = head(registry)
    kept = registry.calibrations
    assert kept.get(x, y, used, "ridge") is None
    kept.put(x, y, used, "ridge", LEARNT, 50)
    assert kept.get(x, y, used, "ridge") == LEARNT
    assert kept.get(x, y, used, "irp") is None
    assert kept.get(y, y, used, "ridge") is None
    moved = space(registry, "x", pair.x_anchors + np.float32(1))
    assert kept.get(moved, y, used, "ridge") is None
    assert head(registry) == used
    assert kept.get(x, y, used, "ridge") == LEARNT, "the same head again changes nothing"
    other_process = Registry(registry.server, durable=False, stale_seconds=60)
    assert other_process.calibrations.get(x, y, used, "ridge") == LEARNT


def test_a_new_head_drops_them_and_takes_none_of_the_old(registry: Registry, pair: Pair) -> None:
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


def test_those_of_an_old_target_make_room(
    registry: Registry, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrations, "MAX_CALIBRATIONS", 3)
    x, y = space(registry, "x", pair.x_anchors), space(registry, "y", pair.y_anchors)
    used = head(registry)
    kept = registry.calibrations
    kept.put(x, y, used, "ridge", LEARNT, 50)
    moved = space(registry, "y", pair.y_anchors + np.float32(1))
    kept.put(x, moved, used, "ridge", LEARNT, 50)
    key = registry.heads.key("h", "calibrations")
    assert registry.server.redis.hlen(key) == 1
    for bridge in ("exp", "irp", "none", "ridge"):
        kept.put(x, moved, used, bridge, LEARNT, 50)
    assert registry.server.redis.hlen(key) == 3
    assert kept.get(x, moved, used, "ridge") == LEARNT


def test_while_the_registry_is_away_the_last_known_holds(
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
