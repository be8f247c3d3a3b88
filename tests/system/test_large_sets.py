"""Anchor sets of 100,000 rows: registered over HTTP, fitted, and larger than any one value."""

import numpy as np
import pytest

from stitchwork.client import Stitchwork
from stitchwork.geometry.bridges import FactorParameters, FittedSpace, compose
from stitchwork.geometry.frame import Frame
from stitchwork.redis.chunked_arrays import BLOCK_BYTES
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import Floats
from tests.support.memory import peak_resident
from tests.support.running_service import running

ROWS = 100_000
MEBI = 1024 * 1024


def _spaces(dims: tuple[int, int], latent: int) -> list[Floats]:
    """Anchors of two spaces of the same inputs, made without an array of float64."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((ROWS, latent), np.float32)
    return [inputs @ rng.standard_normal((latent, d), np.float32) + np.float32(1) for d in dims]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_hundred_thousand_anchors_are_registered_and_fitted_in_bounded_memory() -> None:
    x, y = _spaces((384, 320), 32)
    # The default number of landmarks takes ten times as long, and no more memory.
    parameters = {"landmarks": 256}
    with (
        running(
            0, STITCHWORK_REQUEST_TIMEOUT_SECONDS="600", STITCHWORK_BLAS_THREADS="1"
        ) as service,
        Stitchwork(service.url, timeout=600.0) as client,
    ):
        for name, anchors in (("x", x), ("y", y)):
            record = client.put_space(name, "many", anchors=anchors, exp=parameters)
            assert (record["size"], record["status"]) == (ROWS, "ready")
        for bridge in ("ridge", "exp", "irp"):
            got = client.translate(x[:100], "x", "y", bridge)
            sides = (
                FittedSpace(Frame.from_anchors(rows), FactorParameters(landmarks=256))
                for rows in (x, y)
            )
            want = compose(bridge, *sides).apply(x[:100]).rows
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())
        # Both spaces as float64.
        assert peak_resident(service.pids["api"]) < 10 * x.nbytes


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_anchors_larger_than_any_value_are_stored_in_blocks(
    registry_server: RedisClient,
) -> None:
    registry = Registry(registry_server, durable=True, stale_seconds=60)
    anchors, _ = _spaces((1400, 1), 32)
    assert anchors.nbytes > 512 * MEBI
    _, entry = registry.declare_space(SpaceDeclaration("x", "many", anchors=anchors))
    assert entry.record is not None
    key = registry.spaces.key("x", "arrays", entry.record.version)
    sizes = [registry_server.redis.hstrlen(key, name) for name in registry_server.redis.hkeys(key)]
    assert max(sizes) < 1.1 * BLOCK_BYTES
    assert registry_server.redis.ttl(key) == -1
    stored = registry.spaces.arrays("x", entry.record.version)["anchors"]
    np.testing.assert_array_equal(stored, anchors)
