"""A service without workers that takes little at a time, and two spaces with a head on it."""

from collections.abc import Iterator
from typing import Final

import pytest

from stitchwork.client import Stitchwork
from tests.conftest import Pair
from tests.support.running_service import running

MOST_ROWS: Final = 500


@pytest.fixture(scope="package")
def url(pair: Pair) -> Iterator[str]:
    """Its URL; spaces x and y are on the set S, a head h of two classes in y."""
    with running(workers=0, STITCHWORK_MAX_ROWS=str(MOST_ROWS)) as found:
        with Stitchwork(found.url) as client:
            client.put_space("x", "S", anchors=pair.x_anchors)
            client.put_space("y", "S", anchors=pair.y_anchors)
            arrays = {"weight": pair.y_anchors[:2] - pair.y_anchors.mean(axis=0)}
            client.put_head("h", "y", arrays=arrays, labels=["a", "[b]"])
        yield found.url
