"""A service without workers and with a low limit of rows, two spaces and a head."""

from collections.abc import Iterator
from typing import Final

import pytest

from stitchwork.client import Stitchwork
from tests.conftest import Pair
from tests.support.running_service import running

MAX_ROWS: Final = 500


@pytest.fixture(scope="package")
def url(pair: Pair) -> Iterator[str]:
    """The URL of the service: spaces x and y are on the set S, a head h of two classes in y."""
    with running(workers=0, STITCHWORK_MAX_ROWS=str(MAX_ROWS)) as service:
        with Stitchwork(service.url) as client:
            client.put_space("x", "S", anchors=pair.x_anchors)
            client.put_space("y", "S", anchors=pair.y_anchors)
            arrays = {"weight": pair.y_anchors[:2] - pair.y_anchors.mean(axis=0)}
            client.put_head("h", "y", arrays=arrays, labels=["a", "[b]"])
        yield service.url


@pytest.fixture
def client(url: str) -> Iterator[Stitchwork]:
    """A client of the service."""
    with Stitchwork(url) as client:
        yield client
