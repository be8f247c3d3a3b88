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
    """Two spaces that see the same inputs, made without an array of float64."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((ROWS, latent), np.float32)
    return [inputs @ rng.standard_normal((latent, d), np.float32) + np.float32(1) for d in dims]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_anchors_are_registered_and_fitted_over_http() -> None:
    x, y = _spaces((384, 320), 32)
    # The default number of landmarks asks for ten times the time, and no more memory.
    known = {"landmarks": 256}
    with (
        running(
            0, STITCHWORK_REQUEST_TIMEOUT_SECONDS="600", STITCHWORK_BLAS_THREADS="1"
        ) as service,
        Stitchwork(service.url, timeout=600.0) as client,
    ):
        for name, anchors in (("x", x), ("y", y)):
            told = client.put_space(name, "many", anchors=anchors, exp=known)
            assert (told["size"], told["status"]) == (ROWS, "ready")
        for bridge in ("ridge", "exp", "irp"):
            got = client.translate(x[:100], "x", "y", bridge)
            sides = (
                FittedSpace(Frame.from_anchors(rows), FactorParameters(landmarks=256))
                for rows in (x, y)
            )
            want = compose(bridge, *sides).apply(x[:100]).rows
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())
        # Both spaces as float64, the anchors of one, and little beside them: no more than that.
        assert peak_resident(service.pids["api"]) < 10 * x.nbytes


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_anchors_that_no_single_value_could_hold_are_kept_and_read(
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
    found = registry.spaces.arrays("x", entry.record.version)["anchors"]
    np.testing.assert_array_equal(found, anchors)
