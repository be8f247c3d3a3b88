"""Resolving ids to versions: records, round trips and errors."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from stitchwork.errors import (
    AnchorSetMismatchError,
    InvalidInputError,
    RegistryUnavailableError,
    UnknownResourceError,
)
from stitchwork.geometry.calibration import Calibration
from stitchwork.geometry.classifier import mlp
from stitchwork.inference.resolve import resolve
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registry import Registry
from stitchwork.resources import Space
from tests.conftest import Pair
from tests.support.servers import REGISTRY_FLAGS, VALKEY_9, ServerProcess, server_binary

CALIBRATION = Calibration(0.5, -0.25)


def fill(registry: Registry, pair: Pair) -> None:
    """Spaces x and y on one set, z on another, and a head h in y."""
    for name, anchors, anchor_set in (
        ("x", pair.x_anchors, "set"),
        ("y", pair.y_anchors, "set"),
        ("z", pair.y_anchors, "other"),
    ):
        registry.declare_space(SpaceDeclaration(name, anchor_set, anchors=anchors))
    weight = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    head = define_head(mlp(((weight, np.zeros(2, np.float32)),)), ["a", "b"])
    registry.declare_head("h", "y", head)


@pytest.fixture
def registry(registry_server: RedisClient, pair: Pair) -> Registry:
    registry = Registry(registry_server, durable=False, stale_seconds=60)
    fill(registry, pair)
    return registry


def ids(*records: Space | None) -> list[str | None]:
    return [record.id if record else None for record in records]


def test_resolve_of_two_spaces_has_no_head(registry: Registry) -> None:
    resolution = resolve(registry, source="x", target="y", bridge="ridge")
    assert ids(resolution.source, resolution.target) == ["x", "y"]
    assert list(resolution.records) == ["source", "target"]
    assert (resolution.head, resolution.calibration, resolution.stale) == (None, None, False)


def test_resolve_of_a_head_has_its_space_as_target(registry: Registry) -> None:
    resolution = resolve(registry, source="x", head="h")
    assert ids(resolution.source, resolution.target) == ["x", "y"]
    assert resolution.head is not None
    assert resolution.head.labels == ("a", "b")


def test_resolve_of_a_head_alone_has_its_space_as_source(registry: Registry) -> None:
    resolution = resolve(registry, head="h")
    assert ids(resolution.source, resolution.target) == ["y", "y"]


def test_resolve_includes_the_calibration_of_these_versions_and_bridge(registry: Registry) -> None:
    before = resolve(registry, source="x", head="h", bridge="ridge")
    assert before.head is not None
    registry.calibrations.put(
        before.source, before.destination, before.head, "ridge", CALIBRATION, 50
    )
    assert resolve(registry, source="x", head="h", bridge="ridge").calibration == CALIBRATION
    assert resolve(registry, source="x", head="h", bridge="exp").calibration is None
    assert resolve(registry, head="h", bridge="ridge").calibration is None


def test_resolve_takes_one_round_trip(registry: Registry) -> None:
    def reads() -> int:
        return int(registry.server.redis.info("stats")["total_reads_processed"])

    resolve(registry, source="x", head="h")
    before = reads()
    first = reads()
    resolve(registry, source="x", head="h")
    last = reads()
    # Reading the counter is counted as well.
    assert (last - first) - (first - before) == 1


@pytest.mark.parametrize(
    ("request_ids", "error", "message"),
    [
        ({"source": "x", "target": "nobody"}, UnknownResourceError, "no space nobody"),
        ({"source": "x", "head": "nobody"}, UnknownResourceError, "no head nobody"),
        ({"source": "x", "target": "z"}, AnchorSetMismatchError, "same anchor set"),
        ({"source": "z", "head": "h"}, AnchorSetMismatchError, "same anchor set"),
        ({"source": "y", "target": "x", "head": "h"}, InvalidInputError, "of space y"),
        ({"source": "x", "target": "y", "bridge": "none"}, InvalidInputError, "24 wide"),
    ],
)
def test_resolve_of_ids_that_do_not_fit_raises(
    registry: Registry, request_ids: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(registry, **request_ids)  # type: ignore[arg-type]


@pytest.fixture
def own_process() -> Iterator[ServerProcess]:
    with TemporaryDirectory(prefix="sw") as folder:
        process = ServerProcess(Path(folder), REGISTRY_FLAGS, server_binary(VALKEY_9))
        yield process
        process.stop()


def test_resolve_without_the_registry_uses_the_last_known_versions(
    own_process: ServerProcess, pair: Pair
) -> None:
    server = RedisClient(own_process.url, 5.0, RegistryUnavailableError, failure_pause=0.0)
    registry = Registry(server, durable=False, stale_seconds=60)
    fill(registry, pair)
    known = resolve(registry, source="x", head="h")
    own_process.stop()
    stale = resolve(registry, source="x", head="h")
    assert stale.stale
    assert stale.records == known.records
    with pytest.raises(RegistryUnavailableError, match="z"):
        resolve(registry, source="z")
    server.close()
